"""Training by kernels is plain torch's: losses and gradients on real rows, in fp64 to rounding, and with dropout its distribution."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ordkernels import use_backend
from ordkernels.data import kuairand_sessions, n_ids
from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, IFusion, PooledFusion
from ordkernels.nn import IncrementHeads, MLPDenoiser, SessionDenoiser
from ordkernels.nn._mlp import MLP

pytestmark = pytest.mark.native
ROWS = 200
MODELS: dict[str, Any] = {
    "DiffoR": lambda sizes: DiffoR(*sizes, dropout=0.0),
    "DiffoR, transformer": lambda sizes: DiffoR(*sizes, dropout=0.0, denoiser="transformer"),
    "DiffoR, one head": lambda sizes: DiffoR(*sizes, dropout=0.0, increments=False, aligned=False),
    "DiffoR, flow matching": lambda sizes: DiffoR(*sizes, dropout=0.0, process="flow_matching"),
    "FlowTime": lambda sizes: FlowTime(*sizes, dropout=0.0),
    "GR": lambda sizes: GenerativeRegression(*sizes, dropout=0.0),
    "GR, one pass": lambda sizes: GenerativeRegression(*sizes, dropout=0.0, clem=False),
    "iFusion": lambda sizes: IFusion(*sizes, dropout=0.0),
    "iFusion, its chain": lambda sizes: IFusion(*sizes, dropout=0.0, long=20, **IFusion.chain_loss()),
    "attention pooling": lambda sizes: PooledFusion(*sizes, dropout=0.0, pooling="attention"),
    "FlowTime, dense layers": lambda sizes: FlowTime(*sizes, dropout=0.0, encoder="mlp"),
}


@pytest.fixture(scope="module")
def train() -> dict[str, Tensor]:
    return kuairand_sessions()[0]


def prepared(name: str, train: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    model = MODELS[name]((*n_ids(train), train["dense"].shape[1])).double()
    rows = {k: v.double() if v.is_floating_point() else v for k, v in train.items()}
    model.prepare(rows)
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # the core filter has one of its own
            module.p = 0.0
    some = torch.randperm(len(rows["y"]))[:ROWS]
    return model.train(), {k: rows[k][some] for k in model.batch_keys}


def loss_and_gradients(model: Any, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(5)
    parts = model.loss(batch)
    model.zero_grad()
    parts["loss"].backward()
    return parts, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_plain_torch(name: str, train: dict[str, Tensor]) -> None:
    model, batch = prepared(name, train)
    plain_model = copy.deepcopy(model)
    parts, gradients = loss_and_gradients(model, batch)
    with use_backend("reference"):
        plain_parts, plain = loss_and_gradients(plain_model, batch)
    assert parts.keys() == plain_parts.keys()
    assert gradients.keys() == plain.keys()
    for part in parts:
        torch.testing.assert_close(parts[part], plain_parts[part], rtol=1e-10, atol=1e-10)
    for parameter, g in gradients.items():
        torch.testing.assert_close(g, plain[parameter], rtol=1e-10, atol=1e-10 * float(plain[parameter].abs().max() + 1), msg=parameter)


def assert_same(module: nn.Module, *inputs: Any) -> None:
    """Outputs and gradients by the kernel and by torch's layers."""
    module = module.double()
    found = []
    for backend in ("cpu", "reference"):
        leaves = [t.detach().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]
        with use_backend(backend):
            out = module(*leaves)
        wanted = [*(t for t in leaves if isinstance(t, Tensor) and t.requires_grad), *module.parameters()]
        found.append([out, *torch.autograd.grad(out, wanted, torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(7,), (7, 5), (7, 1), (1, 5)], ids=str)
def test_denoiser_with_every_form_of_timesteps(shape: tuple[int, ...]) -> None:
    x, c, rows = torch.randn(*shape, 6).double(), torch.randn(shape[0], 3).double(), shape[0]
    forms: list[Any] = [4, 4.0, torch.tensor(3), torch.randint(1, 9, shape)]
    forms += [torch.randint(1, 9, shape[1:]), torch.randint(1, 9, (rows, 1))] if len(shape) == 2 else []
    net = MLPDenoiser(6, 3, 70, dropout=0.3).eval()
    for t in forms:
        assert_same(net, x, t, c)
        conditioned = net.conditioned(c, 9)
        torch.testing.assert_close(conditioned(x, t), net(x, t, c), rtol=1e-10, atol=1e-10)


class _Branches(SessionDenoiser):
    def forward(self, x: Tensor, t: Any, p: Tensor, q: Tensor, mask: Tensor | None, empty: Tensor | None) -> Tensor:
        return torch.stack(self.branches(x, t, p, q, mask, empty_cp=empty))


@pytest.mark.parametrize("B", [0, 1, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_sessions_in_turn(B: int, masked: bool) -> None:
    net, K = _Branches(6, 3, 70), 4
    mask = torch.rand(B, K) < 0.5 if masked else None
    guidance = [torch.randn(B, K, 3).double() for _ in range(2)]
    for t in (3, torch.randint(1, 9, (B,))):
        assert_same(net, torch.randn(B, 6).double(), t, *guidance, mask, torch.rand(B) < 0.5)


@pytest.mark.parametrize("heads", [(5, 4, 3), (5, 1, 3)], ids=str)
def test_increment_heads(heads: tuple[int, ...]) -> None:
    assert_same(IncrementHeads(3, 4, 9), torch.randn(heads).double())


@pytest.mark.parametrize("dropout", [None, 0.2])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 3, 4), (0, 4)], ids=str)
def test_mlp_of_any_leading_sizes(dropout: float | None, shape: tuple[int, ...]) -> None:
    net = MLP(4, 9, 3, dropout).eval()
    assert list(net.state_dict()) == [f"{i}.{p}" for i in (0, 2 + (dropout is not None)) for p in ("weight", "bias")]
    assert_same(net, torch.randn(shape).double())


@pytest.mark.parametrize("row", [None, torch.tensor([0, 0, 2, 1, 2])], ids=["each its own", "shared"])
@pytest.mark.parametrize("dropout", [None, 0.4])
def test_mlp_of_inputs_that_rows_share(row: Tensor | None, dropout: float | None) -> None:
    net, x, shared = MLP(9, 20, 3, dropout).double(), torch.randn(5, 4).double(), torch.randn(5 if row is None else 3, 5).double()
    found = []
    with use_backend("cpu"):
        assert net.served(x)
        for whole in (True, False):
            leaves = [t.detach().requires_grad_() for t in (x, shared)]
            torch.manual_seed(1)  # the same units are dropped
            if whole:
                of_rows = leaves[1] if row is None else leaves[1][row]
                out = net(torch.cat((leaves[0][:, :1], of_rows[:, :2], leaves[0][:, 1:], of_rows[:, 2:]), dim=1))
            else:
                out = net.with_shared(*leaves, row, (1, 2, 3, 3))
            found.append([out, *torch.autograd.grad(out.square().sum(), [*leaves, *net.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_mlp_drops_as_its_module_says() -> None:
    net, x = MLP(4, 64, 1, 0.4), torch.randn(1, 4).expand(4000, -1)
    with torch.no_grad():
        net[3].bias.zero_()
        mean = net.eval()(x[:1]).item()
        draws = net.train()(x)
        assert abs(draws.mean() - mean) < 5 * draws.std() / 4000**0.5
        with use_backend("reference"):
            torch.testing.assert_close(draws.std(), net(x).std(), rtol=0.1, atol=0)
        net[2].p = 0.0
        torch.testing.assert_close(net(x[:1]).item(), mean)


def test_a_layer_that_was_replaced_or_is_listened_to_is_called() -> None:
    calls, x = [], torch.randn(200, 4)
    net = MLP(4, 9, 3)
    want = net(x)
    handle = net[0].register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(net(x), want)
    assert calls
    handle.remove()
    net[2] = nn.Sequential(net[2], nn.Flatten())
    torch.testing.assert_close(net(x), want)
    denoiser = MLPDenoiser(4, 2, 9)
    denoiser.output.register_forward_hook(lambda *_: calls.append(1))
    del calls[:]
    denoiser(x, 3, torch.randn(200, 2))
    assert calls


def test_second_derivatives_need_the_reference() -> None:
    net, x = MLPDenoiser(4, 2, 9), torch.randn(5, 4, requires_grad=True)
    with use_backend("reference"):
        (g,) = torch.autograd.grad(net(x, 3, torch.randn(5, 2)).sum(), x, create_graph=True)
    assert torch.autograd.grad(g.sum(), x)[0].abs().sum() > 0
