"""Objects of other packages before and after ``swap_in``: the same call, the same results. A peer that is not installed has no case."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ordkernels import ops, swap, swap_in

from . import OURS, Case, Run, Scaling, Size, optional, randn, without_grad

D = 64
ROWS: dict[Size, tuple[int, ...]] = {"tiny": (5,), "quick": (1024,), "full": (1024, 65536)}


def cases(device: str, size: Size) -> Iterator[Case]:
    for B in ROWS[size]:
        yield from _flows(B, device)
    for B in ROWS[size]:
        yield from _schedulers(B, device)
    yield from _gr_decoding({"tiny": 3, "quick": 128, "full": 1024}[size], device)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    layer = HandWritten().to(device)
    swap_in(layer, verify=False)

    def make(B: int) -> Run:
        return without_grad(layer, [randn(B, D, device=device, seed=1)])

    yield Scaling(
        "swap", "hand-written planar layer, swapped", "B", tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1)), make, float
    )


class HandWritten(nn.Module):
    """A planar layer as one writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w, self.b = (nn.Parameter(0.1 * torch.randn(n)) for n in (D, D, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        wu = self.w @ self.u
        u = self.u + (F.softplus(wu) - 1 - wu) * self.w / self.w.square().sum()
        a = torch.tanh(z @ self.w + self.b)
        return z + a[:, None] * u, torch.log1p((1 - a**2) * (self.w @ u))


@swap.rule(HandWritten, op="planar_flow")
class _Fused:
    u: Tensor
    w: Tensor
    b: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return ops.planar_flow(z, self.u[None], self.w[None], self.b)


def _flows(B: int, device: str) -> Iterator[Case]:
    torch.manual_seed(0)
    z, h = randn(B, D, device=device, seed=1), randn(B, 16, device=device, seed=2)
    yield from _modules("hand-written planar layer", "hand-written", HandWritten(), lambda m, z: m(z), [z])
    normflows = optional("normflows", {}, "")
    if normflows is not None:
        yield from _modules("normflows Planar", "normflows", normflows.flows.Planar((D,)), lambda m, z: m(z), [z])
    transforms = optional("pyro.distributions.transforms", {}, "")
    if transforms is not None:
        yield from _modules("Pyro Planar", "Pyro", transforms.planar(D), _pyro, [z])
        conditional = transforms.conditional_planar(D, 16, [64])
        yield from _modules("Pyro ConditionalPlanar", "Pyro", conditional, lambda m, z, h: _pyro(m.condition(h), z), [z, h])


def _pyro(t: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    x = z.view_as(z)  # the transform would give its cached result for the same object
    y = t(x)
    return y, t.log_abs_det_jacobian(x, y)


def _modules(name: str, peer: str, theirs: nn.Module, call: Callable[..., Any], inputs: list[Tensor]) -> Iterator[Case]:
    """A call, and a training step with the gradients of inputs and parameters."""
    theirs = theirs.to(inputs[0].device)
    ours, wide = copy.deepcopy(theirs), copy.deepcopy(theirs).double()
    swap_in(ours, strict=True)
    B, device = len(inputs[0]), inputs[0].device.type
    doubles = [t.double() for t in inputs]
    for backward in (False, True):
        runs = {OURS: _run(call, ours, inputs, backward), peer: _run(call, theirs, inputs, backward)}
        kind = "forward + backward" if backward else "forward"
        moved = 4 * B * D * (4 if backward else 2)

        def expected(backward: bool = backward) -> tuple[Any, ...]:
            result: tuple[Any, ...] = _run(call, wide, doubles, backward)()
            return result

        yield Case("swap", f"{name}, {kind} B={B}", runs, expected, 1e-4, bytes=moved, device=device)


def _run(call: Callable[..., Any], module: nn.Module, inputs: list[Tensor], backward: bool) -> Run:
    if not backward:
        return without_grad(lambda *given: call(module, *given), inputs)
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    tracked = [*leaves, *module.parameters()]

    def run() -> tuple[Tensor, ...]:
        out, log_det = call(module, *leaves)
        return (out.detach(), log_det.detach(), *torch.autograd.grad(out.square().mean() + log_det.mean(), tracked))

    return run


def _schedulers(B: int, device: str) -> Iterator[Case]:
    diffusers = optional("diffusers", {}, "")
    if diffusers is None:
        return
    x, output, noise = (randn(B, D, device=device, seed=seed) for seed in (1, 2, 3))
    t = torch.full((B,), 500, device=device)
    steps: list[tuple[str, Any, Callable[..., Any], Any]] = [
        ("DDIMScheduler.step, eta 0", diffusers.DDIMScheduler, lambda s: s.step(output, 500, x, return_dict=False), {}),
        ("DDPMScheduler.step", diffusers.DDPMScheduler, lambda s: _seeded(s, output, x), {}),
        ("DDPMScheduler.add_noise", diffusers.DDPMScheduler, lambda s: (s.add_noise(x, noise, t),), {}),
    ]
    for name, cls, call, config in steps:
        theirs, ours = cls(**config), cls(**config)
        swap_in(ours, strict=True)
        for s in (theirs, ours):
            s.set_timesteps(50)
        runs = {OURS: without_grad(call, [ours]), "diffusers": without_grad(call, [theirs])}
        yield Case(
            "swap", f"diffusers {name} B={B}", runs, without_grad(call, [theirs]), 1e-5, bytes=4 * B * D * (3 if "add" in name else 4),
            device=device,
        )  # fmt: skip


def _seeded(scheduler: Any, output: Tensor, x: Tensor) -> Any:
    torch.manual_seed(0)
    return scheduler.step(output, 500, x, return_dict=False)


def _gr_decoding(B: int, device: str) -> Iterator[Case]:
    """Needs a checkout of github.com/snailma0229/GR on PYTHONPATH; the batch is in memory, so that no data loader is timed."""
    missing: dict[str, str] = {}
    decoder, inference = optional("model.decoder", missing, "GR authors"), optional("inference", missing, "GR authors")
    if decoder is None or inference is None:
        return
    torch.manual_seed(0)
    model: Any = nn.Module()
    model.decoder = decoder.Decoder(60, D, 256, 4, 2, 0.1).to(device)
    model.get_encoder_result = lambda x, *_: (x[:, None], torch.ones(len(x), 1, 1, 1, device=device))
    model.make_trg_mask = lambda trg, pad: (pad[:, None] & torch.ones(2 * [trg.shape[1]], dtype=torch.bool, device=device).tril())[:, None]
    memory, y = randn(B, D, device=device, seed=1), randn(B, 1, device=device, seed=2)
    batch = memory, y, y, y, torch.ones(B, 3), y
    values = torch.cat((torch.zeros(3), torch.linspace(60000, 1, 57))).to(device)
    theirs = inference.evaluate
    for mixup in (False, True):

        def call(evaluate: Any, mixup: bool = mixup) -> tuple[Tensor, ...]:
            with contextlib.redirect_stdout(None):
                return tuple(torch.as_tensor(float(v)) for v in evaluate([batch], model, 20, mixup, values, device))

        with swap_in("inference", strict=True, verify=False):
            ours = inference.evaluate
        runs = {OURS: without_grad(call, [ours]), "GR authors": without_grad(call, [theirs])}
        name = f"GR authors' evaluate, 19 steps{', embedding mixup' if mixup else ''} B={B}"
        yield Case("swap", name, runs, without_grad(call, [theirs]), 1e-3, bytes=4 * B * D, device=device)
