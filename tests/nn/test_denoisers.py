"""Denoisers and increment heads: against their formulas, per-row times against a loop, stable keys, gradients, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from ordkernels.nn import IncrementHeads, MLPDenoiser, TransformerDenoiser
from ordkernels.nn.denoisers import TimeEmbedding
from ordkernels.reference.denoise_chain import chain_steps, denoise_chain


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(kind: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    net = MLPDenoiser(16, 5, hidden=24, time_width=8) if kind == "mlp" else TransformerDenoiser(16, 5, tokens=4, d_model=16, heads=2)
    return net.to(dtype).eval()


def test_time_embedding():
    e = TimeEmbedding(6)(torch.tensor([0, 3]))
    f = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    assert torch.allclose(e[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    assert torch.allclose(e[1], torch.tensor([*(math.sin(3 * w) for w in f), *(math.cos(3 * w) for w in f)]))
    with pytest.raises(ValueError, match="width: expected an even number"):
        TimeEmbedding(5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_embedding_and_not_the_timestep(dtype):
    t, embedding = torch.tensor([1, 515, 981, 1000]), TimeEmbedding(64)
    want = embedding(t)
    got = embedding.to(dtype)(t)
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))
    assert torch.equal(embedding.to("cpu")(t), got)  # moved, not cast
    assert torch.equal(embedding.float()(t), want)  # and back, with nothing lost


def test_mlp_denoiser_is_its_formula():
    net = make("mlp")
    x, c, t = torch.randn(7, 16).double(), torch.randn(7, 5).double(), torch.arange(1, 8)
    p = net.state_dict()
    assert list(p) == ["input.weight", "input.bias", "condition.weight", "output.weight", "output.bias"]
    h = torch.cat((x, net.embedding(t)), dim=1) @ p["input.weight"].T + p["input.bias"] + c @ p["condition.weight"].T
    assert torch.allclose(net(x, t, c), F.silu(h) @ p["output.weight"].T + p["output.bias"], atol=1e-12)


def test_folded_mlp_is_the_module():
    net = make("mlp")
    x, c, steps = torch.randn(7, 16).double(), torch.randn(7, 5).double(), torch.tensor([9, 4, 1])
    f = net.fold(steps, c)
    for s, t in enumerate(steps.tolist()):
        assert torch.allclose(F.silu(x @ f.weight.T + f.time[s] + f.cond) @ f.out.T + f.bias, net(x, t, c), atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_copies_and_per_row_times_equal_a_loop(kind):
    net = make(kind)
    B, K = 6, 3
    x, c = torch.randn(B, K, 16).double(), torch.randn(B, 5).double()
    for t in (torch.tensor(5), torch.tensor([9, 5, 2]), torch.randint(1, 9, (B, 1)), torch.randint(1, 9, (B, K))):
        full = t.expand(B, K)
        want = torch.stack([torch.cat([net(x[b : b + 1, k], int(full[b, k]), c[b : b + 1]) for b in range(B)]) for k in range(K)], dim=1)
        assert torch.allclose(net(x, t, c), want, atol=1e-12)
    rows = torch.randint(1, 9, (B,))
    want = torch.cat([net(x[b : b + 1, 0], float(rows[b]), c[b : b + 1]) for b in range(B)])
    assert torch.allclose(net(x[:, 0], rows, c), want, atol=1e-12)
    assert net(x[:0], torch.tensor([9, 5, 2]), c[:0]).shape == (0, K, 16)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_every_parameter_is_used(kind):
    net = make(kind).train()
    net(torch.randn(4, 3, 16).double(), torch.tensor([3, 2, 1]), torch.randn(4, 5).double()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_dropout_only_in_training():
    for net in (MLPDenoiser(16, 5, dropout=0.5), TransformerDenoiser(16, 5, tokens=4, dropout=0.5)):
        x, c = torch.randn(4, 16), torch.randn(4, 5)
        assert not torch.equal(net.train()(x, 3, c), net(x, 3, c))
        assert torch.equal(net.eval()(x, 3, c), net(x, 3, c))


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_denoiser_errors(kind):
    net = make(kind)
    x, c = torch.randn(4, 16).double(), torch.randn(4, 5).double()
    for args, text in (
        ((x[:, :8], 1, c), r"x: expected \[B, D\] or \[B, K, D\] with D = 16, got \[4, 8\]"),
        ((x, 1, c[:2]), r"cond: expected \[B, C\] = \[4, 5\], got \[2, 5\]"),
        ((x, torch.ones(3), c), r"t: expected \[\] or \[B\] for x \[4, 16\], got \[3\]"),
        ((x[:, None], torch.ones(4), c), r"t: expected \[\], \[K\], \[B, 1\] or \[B, K\]"),
    ):
        with pytest.raises(ValueError, match=text):
            net(*args)
    with pytest.raises(ValueError, match="hidden: expected a whole number"):
        MLPDenoiser(16, 5, hidden=0)
    with pytest.raises(ValueError, match="width: expected a multiple of tokens = 8, got 20"):
        TransformerDenoiser(20, 5)
    with pytest.raises(ValueError, match="d_model: expected a multiple of heads = 8, got 20"):
        TransformerDenoiser(16, 5, d_model=20)


def test_increment_heads_are_k_separate_mlps():
    K, D = 5, 6
    heads = IncrementHeads(D, K, hidden=9, widths=[1.0, 2.0, 0.0, 3.0, 0.5]).double()
    x = torch.randn(7, K, D).double()
    p = heads.state_dict()
    assert list(p) == ["weight", "bias", "out_weight", "out_bias", "widths"]
    for k in range(K):
        g = F.silu(x[:, k] @ p["weight"][k] + p["bias"][k]) @ p["out_weight"][k] + p["out_bias"][k]
        assert torch.allclose(heads(x)[:, k], p["widths"][k] * torch.sigmoid(g), atol=1e-12)
    shared = heads(x[:, :1])
    assert torch.allclose(shared, heads(x[:, :1].expand(-1, K, -1)), atol=1e-12)
    per_row = torch.rand(7, K).double()
    assert torch.allclose(heads(x, per_row), per_row * torch.sigmoid(heads.logits(x)))
    assert heads(x[:0]).shape == (0, K)


def test_increment_heads_stay_apart():
    """A head's loss reaches its own parameters and its own state alone."""
    heads = IncrementHeads(6, 4)
    x = torch.randn(3, 4, 6, requires_grad=True)
    heads(x)[:, 2].sum().backward()
    for p in (*heads.parameters(), x.grad.transpose(0, 1)):
        grad = p.grad if isinstance(p, torch.nn.Parameter) else p
        assert [bool(grad[k].abs().sum() > 0) for k in range(4)] == [False, False, True, False]


def test_increment_heads_errors():
    for widths in ([1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="widths: expected 2 widths of at least 0"):
            IncrementHeads(6, 2, widths=widths)
    with pytest.raises(ValueError, match=r"states: expected \[B, K, D\] or \[B, 1, D\] with K, D = 2, 6, got \[3, 4, 6\]"):
        IncrementHeads(6, 2)(torch.randn(3, 4, 6))


def test_chain_of_a_perfect_denoiser_returns_its_signal():
    ab = torch.linspace(1, 0.01, 21).double()
    x0 = torch.randn(5, 16).double()
    eps = torch.randn(5, 16).double()
    x_T = ab[20].sqrt() * x0 + (1 - ab[20]).sqrt() * eps
    outputs = {"x0": lambda t: x0, "eps": lambda t: eps, "v": lambda t: ab[t].sqrt() * eps - (1 - ab[t]).sqrt() * x0}
    for prediction, out in outputs.items():
        got, estimates = denoise_chain(
            x_T, x0, lambda x, t, c, out=out: out(t), ab, chain_steps(7, [17, 9, 2], 20), [17, 9, 2], prediction=prediction
        )
        assert torch.allclose(got, x0, atol=1e-9)
        assert torch.allclose(estimates, x0[:, None].expand(5, 3, 16), atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_chain_noise_keeps_the_marginals(eta):
    """Given the true signal, every state on the way is distributed as q_sample's: N(sqrt(ab_t) x0, 1 - ab_t)."""
    ab, N, x0 = torch.linspace(1, 0.01, 21).double(), 40000, 3.0
    noise = torch.randn(21, N, 1).double()
    seen = {}

    def denoiser(x, t, c):
        seen[t] = x[:, 0]
        return torch.full_like(x, x0)

    x_T = ab[20].sqrt() * x0 + (1 - ab[20]).sqrt() * noise[20]
    steps = [20, 16, 15, 9, 2]
    denoise_chain(x_T, x_T, denoiser, ab, steps, [9], prediction="x0", eta=eta, noise=lambda i, t: noise[i])
    for t in steps:
        assert float(seen[t].mean()) == pytest.approx(float(ab[t].sqrt()) * x0, abs=0.03)
        assert float(seen[t].var()) == pytest.approx(1 - float(ab[t]), abs=0.03)


def test_chain_steps():
    assert chain_steps(50, [50, 25, 1], 50) == list(range(50, 0, -1))
    assert chain_steps(4, [18, 3], 20) == [20, 18, 15, 10, 5, 3]  # trailing spacing, united with the aligned ones
    assert chain_steps([20, 7], [7], 20) == [20, 7]
    for steps, aligned, text in (
        ([20, 7], [8], r"steps: expected to contain the aligned timesteps, got none of \[8\]"),
        ([7, 7], [7], "steps: expected strictly descending"),
        ([21], [7], r"steps: expected strictly descending timesteps in \[1, 20\], got \[21\]"),
        (0, [7], r"steps: expected a number in \[1, 20\]"),
        (21, [7], r"steps: expected a number in \[1, 20\]"),
        (5, [7, 7], "aligned: expected strictly descending"),
        (5, [7, 0], "aligned: expected strictly descending"),
        (5, [], "aligned: expected strictly descending"),
    ):
        with pytest.raises(ValueError, match=text):
            chain_steps(steps, aligned, 20)
