"""Noising, estimates of x0 and reverse steps: against published formulas and diffusers, the kernels against fp64 truth."""

import importlib.util
import itertools
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import ordkernels
from ordkernels import rng
from ordkernels.ops import flow_sample, flow_step, predict_x0, q_sample, reverse_step
from ordkernels.schedules import NoiseSchedule
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import SIZES, strided

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PREDICTIONS = ("eps", "x0", "v")
KERNEL = torch.ops.ordkernels
native = pytest.mark.native


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64).to(dtype), torch.randn(shape, dtype=torch.float64).to(dtype)


def levels(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """alpha_bar of t and of s < t."""
    t = torch.rand(shape, dtype=torch.float64) * 0.5 + 0.05
    return t.to(dtype), (t + (1 - t) * (torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1)).to(dtype)


def by_formula(
    x: Tensor, out: Tensor, t: Tensor, s: Tensor, eta: float, prediction: str, clip: float | None, reclip: bool, xi: Any
) -> tuple[Tensor, Tensor]:
    """As the papers write it, in fp64."""
    x, out, t, s = x.double(), out.double(), t[..., None], s[..., None]
    if prediction == "eps":
        eps, x0 = out, (x - (1 - t).sqrt() * out) / t.sqrt()
    elif prediction == "x0":
        eps, x0 = (x - t.sqrt() * out) / (1 - t).sqrt(), out
    else:
        eps, x0 = t.sqrt() * out + (1 - t).sqrt() * x, t.sqrt() * x - (1 - t).sqrt() * out
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    if reclip:
        eps = (x - t.sqrt() * x0) / (1 - t).sqrt()
    sigma = eta * ((1 - s) / (1 - t)).sqrt() * (1 - t / s).sqrt()
    return s.sqrt() * x0 + (1 - s - sigma**2).sqrt() * eps + sigma * xi, x0


# ---- against the formulas


@native
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clip", [None, 0.6])
def test_step_is_the_published_one(backend: str | None, prediction: Any, eta: float, clip: float | None) -> None:
    for shape, reclip in itertools.product(((6, 5), (4, 3, 5)), (False, True)):
        x, out = pair(*shape)
        xi = torch.randn(shape, dtype=torch.float64)
        t, s = levels(*shape[:-1])
        with ordkernels.use_backend(backend) if backend else torch.enable_grad():
            got = reverse_step(x, out, t, s, eta=eta, prediction=prediction, clip=clip, use_clipped_model_output=reclip, noise=xi)
            estimate = predict_x0(x, out, t, prediction=prediction, clip=clip)
        expected = by_formula(x, out, t, s, eta, prediction, clip, reclip, xi)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(estimate, expected[1], rtol=1e-11, atol=1e-11)


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_noising_and_flow_matching_are_the_published_ones(backend: str | None) -> None:
    x0, (noise, velocity) = torch.randn(4, 5, dtype=torch.float64), pair(4, 3, 5)
    t, s = levels(4, 3)
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        q, f = q_sample(x0, noise, t), flow_sample(x0, noise, t)
        x_s, est = flow_step(noise, velocity, t, s)
    c = t[..., None]
    torch.testing.assert_close(q, c.sqrt() * x0[:, None] + (1 - c).sqrt() * noise)
    torch.testing.assert_close(f, (1 - c) * x0[:, None] + c * noise)
    torch.testing.assert_close(x_s, noise + (s - t)[..., None] * velocity)
    torch.testing.assert_close(est, noise - c * velocity)


@native
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_true_outputs_lead_back_to_x0(prediction: Any) -> None:
    x0, noise = pair(7, 9)
    t, s = levels(7)
    c = t[:, None]
    true = {"eps": noise, "x0": x0, "v": c.sqrt() * noise - (1 - c).sqrt() * x0}[prediction]
    x_t = q_sample(x0, noise, t)
    x_s, est = reverse_step(x_t, true, t, s, prediction=prediction)
    torch.testing.assert_close(est, x0)
    torch.testing.assert_close(x_s, q_sample(x0, noise, s))
    x_f = flow_sample(x0, noise, t)
    back, est = flow_step(x_f, noise - x0, t, torch.zeros(()))
    torch.testing.assert_close(back, x0)
    torch.testing.assert_close(est, x0)


@native
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_diffusers_takes_the_same_steps(prediction: Any, clip: float | None) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = dict(
        num_train_timesteps=100, prediction_type={"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[prediction],
        clip_sample=clip is not None, clip_sample_range=clip or 1.0,
    )  # fmt: skip
    ddim, ddpm = diffusers.DDIMScheduler(**config, set_alpha_to_one=True), diffusers.DDPMScheduler(**config)
    schedule = NoiseSchedule.from_diffusers(ddim)
    x, out = pair(8, 16, dtype=torch.float32)
    ddim.set_timesteps(20)
    for t in (95, 50, 5, 0):  # their timestep t is our step t + 1
        a_t, a_s = schedule.alpha_bar[t + 1], schedule.alpha_bar[max(t - 4, 0)]
        for eta in (0.0, 0.5, 1.0):
            noise = torch.randn(8, 16)
            theirs = ddim.step(out, t, x, eta=eta, variance_noise=noise)
            ours = reverse_step(x, out, a_t, a_s, eta=eta, prediction=prediction, clip=clip, noise=noise)
            torch.testing.assert_close(ours[0], theirs.prev_sample, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours[1], theirs.pred_original_sample, rtol=1e-5, atol=1e-5 * (1 / a_t).item())
    # in fp64: in fp32 their beta_t = 1 - alpha_bar_t / alpha_bar_s has lost half of its digits at small t
    ddpm.alphas_cumprod = ddpm.alphas_cumprod.double()
    x, out = x.double(), out.double()
    for t in (99, 40, 1):
        theirs = ddpm.step(out, t, x, generator=torch.Generator().manual_seed(t))
        noise = torch.randn(8, 16, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        a_t, a_s = ddpm.alphas_cumprod[t], ddpm.alphas_cumprod[t - 1]
        ours = reverse_step(x, out, a_t, a_s, eta=1.0, prediction=prediction, clip=clip, use_clipped_model_output=True, noise=noise)
        torch.testing.assert_close(ours[0], theirs.prev_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours[1], theirs.pred_original_sample, rtol=1e-5, atol=1e-5)


@native
@pytest.mark.parametrize("form", ["K", "B1", "BK"])
def test_a_level_per_row_is_a_loop_over_rows(form: str) -> None:
    B, K, D = 4, 3, 5
    x, out = pair(B, K, D, dtype=torch.float32)
    t, s = levels(*{"K": (K,), "B1": (B, 1), "BK": (B, K)}[form], dtype=torch.float32)
    got = reverse_step(x, out, t, s, prediction="v")
    for b, k in itertools.product(range(B), range(K)):
        one = reverse_step(x[b, k][None], out[b, k][None], t.expand(B, K)[b, k].item(), s.expand(B, K)[b, k].item(), prediction="v")
        torch.testing.assert_close((got[0][b, k], got[1][b, k]), (one[0][0], one[1][0]), rtol=1e-6, atol=1e-6)


# ---- row-keyed noise


@native
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("shape", [(9, 1), (5, 3), (4, 64), (3, 300), (2, 1030), (5, 3, 7), (3, 4, 64), (2, 3, 150)])
def test_noise_is_that_of_rng(backend: str | None, shape: tuple[int, ...]) -> None:
    x, out = pair(*shape)
    ids = torch.randint(-(2**62), 2**62, shape[:1])
    t, s = levels(*shape[:-1])
    xi = rng.normal(-7, ids, 12, math.prod(shape[1:])).view(shape).double()
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        got = reverse_step(x, out, t, s, eta=0.7, seed=-7, row_ids=ids, step=12)
        again = reverse_step(x, out, t, s, eta=0.7, seed=2**64 - 7, row_ids=ids, step=12)
    torch.testing.assert_close(got, reverse_step(x, out, t, s, eta=0.7, noise=xi), rtol=1e-6, atol=3e-6)
    assert same_bits(got, again)


@native
def test_noise_belongs_to_the_row() -> None:
    x, out = pair(40, 30, dtype=torch.float32)
    ids = torch.arange(40) * 5 + 2**33
    whole = reverse_step(x, out, 0.3, 0.5, eta=1.0, seed=3, row_ids=ids, step=4)
    for rows in (torch.arange(7, 20), torch.randperm(40)):
        part = reverse_step(x[rows], out[rows], 0.3, 0.5, eta=1.0, seed=3, row_ids=ids[rows], step=4)
        assert same_bits(part, [t[rows] for t in whole])
    assert same_bits(
        reverse_step(x, out, 0.3, 0.5, eta=1.0, seed=3), reverse_step(x, out, 0.3, 0.5, eta=1.0, seed=3, row_ids=torch.arange(40))
    )
    for other in (dict(seed=4, step=4), dict(seed=3, step=5)):
        assert not torch.equal(reverse_step(x, out, 0.3, 0.5, eta=1.0, row_ids=ids, **other)[0], whole[0])


@native
def test_noise_is_asked_for_only_where_it_is_used() -> None:
    x, out = pair(3, 4)
    with pytest.raises(ValueError, match="noise: expected noise or seed"):
        reverse_step(x, out, 0.3, 0.5, eta=1.0)
    with pytest.raises(ValueError, match="noise: expected noise or seed"):
        reverse_step(x, out, 0.3, torch.ones(3), eta=1.0)
    last = reverse_step(x, out, 0.3, 1.0, eta=1.0)
    torch.testing.assert_close(last[0], last[1])
    zero = reverse_step(x, out, 0.3, torch.ones(3), eta=1.0, seed=0)
    torch.testing.assert_close(zero[0], last[0])


# ---- accuracy, sizes, layouts


def gradients(out: Any, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    out = (out,) if isinstance(out, Tensor) else out
    g = [
        torch.linspace(-1, 1, t.numel(), dtype=torch.float64).cos().mul(64).round().div(64).view(t.shape).to(t) for t in out
    ]  # exact in all dtypes
    return torch.autograd.grad(out, leaves, g, allow_unused=True, materialize_grads=True)


def everything(x: Tensor, out: Tensor, x0: Tensor, noise: Tensor, t: Any, s: Any, prediction: Any, clip: float | None) -> list[Tensor]:
    """Outputs and all gradients of all the ops."""
    x, out, x0, noise = (a.detach().clone().requires_grad_() for a in (x, out, x0, noise))
    t, s = (a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in (t, s))
    ts = [t, s] if isinstance(t, Tensor) else []
    r: list[Tensor] = []
    for y, leaves in (
        (reverse_step(x, out, t, s, eta=0.5, prediction=prediction, clip=clip, noise=noise), [x, out, noise, *ts]),
        (predict_x0(x, out, t, prediction=prediction, clip=clip), [x, out, *ts[:1]]),
        (q_sample(x0, noise, t), [x0, noise, *ts[:1]]),
        (flow_sample(x0, noise, t), [x0, noise, *ts[:1]]),
        (flow_step(x, out, t, s), [x, out, *ts]),
    ):
        r += [y.detach()] if isinstance(y, Tensor) else [a.detach() for a in y]
        r += gradients(y, leaves)
    return r


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("form", ["number", "B", "BK", "K"])
def test_errors_keep_their_budget(dtype: torch.dtype, prediction: Any, form: str) -> None:
    for size in SIZES if form in ("number", "B") else (0, 1, 9):
        shape = (size, 11) if form in ("number", "B") else (size, 3, 11)
        (x, out), noise, x0 = pair(*shape, dtype=dtype), torch.randn(shape).to(dtype), torch.randn(shape[0], 11).to(dtype)
        t, s = (0.3, 0.6) if form == "number" else levels(*{"B": shape[:1], "BK": shape[:2], "K": shape[1:2]}[form], dtype=torch.float32)
        clip = None if form == "B" else 2.0
        got = everything(x, out, x0, noise, t, s, prediction, clip)
        with ordkernels.use_backend("reference"):
            eager = everything(x, out, x0, noise, t, s, prediction, clip)
            truth = everything(*(a.double() for a in (x, out, x0, noise)), t, s, prediction, clip)
        assert_within_budget(got, eager, truth, scale=1.0)


@native
def test_strides_do_not_matter() -> None:
    x, out, noise = *pair(4, 3, 10, dtype=torch.float32), torch.randn(4, 3, 10)
    t, s = levels(4, 3, dtype=torch.float32)
    plain = reverse_step(x, out, t, s, eta=0.5, noise=noise)
    assert same_bits(reverse_step(strided(x), strided(out), strided(t), strided(s), eta=0.5, noise=strided(noise)), plain)
    assert torch.equal(q_sample(strided(x[:, 0]), strided(noise), strided(t)), q_sample(x[:, 0], noise, t))


@native
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_of_any_dtype_and_place(dtype: torch.dtype) -> None:
    x, out = pair(4, 10, dtype=torch.float32)
    t = torch.full((4,), 0.25, dtype=dtype)  # exact in all of them
    number = predict_x0(x, out, 0.25)
    for level in (t, t[0], t[:1], torch.tensor(0.25, dtype=dtype)):
        assert torch.equal(predict_x0(x, out, level), number)
    leaf, wide, zero = (a.clone().requires_grad_() for a in (t, t.float(), t[0].float()))
    g, g_wide, g_zero = (torch.autograd.grad(predict_x0(x, out, a).sum(), a)[0] for a in (leaf, wide, zero))
    assert g.dtype == dtype
    torch.testing.assert_close(g.float(), g_wide, rtol=1e-2, atol=0)
    torch.testing.assert_close(g_zero, g_wide.sum())


@native
def test_levels_near_one_keep_their_digits() -> None:
    exact = NoiseSchedule.linear(1000).exact[1]
    x, out = torch.zeros(1, 4), torch.ones(1, 4)
    assert predict_x0(x, out, exact)[0, 0].item() == pytest.approx(-math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-6)
    assert predict_x0(x, out, torch.tensor([exact], dtype=torch.float64))[0, 0].item() == pytest.approx(
        -math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-6
    )


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_nan_stays_in_its_row(backend: str | None) -> None:
    x, out = pair(4, 20, dtype=torch.float32)
    t = torch.full((4,), 0.4)
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        clean = reverse_step(x, out, t, 0.7, clip=1.0)
        x[1, 3], t[2] = math.nan, math.nan
        got = reverse_step(x, out, t, 0.7, clip=1.0)
    for a, b in zip(got, clean, strict=True):
        assert same_bits((a[[0, 3]],), (b[[0, 3]],))
        assert a[1].isnan().nonzero().tolist() == [[3]]
        assert a[2].isnan().all()


@native
def test_threads_do_not_change_a_bit() -> None:
    x, out = pair(3000, 16, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = reverse_step(x, out, 0.3, 0.5, eta=1.0, seed=1)
        torch.set_num_threads(2)
        assert same_bits(reverse_step(x, out, 0.3, 0.5, eta=1.0, seed=1), one)
    finally:
        torch.set_num_threads(before)


# ---- every way through autograd


@native
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("reclip", [False, True])
def test_gradcheck(prediction: Any, reclip: bool) -> None:
    (x, out), xi = pair(3, 2, 4), torch.randn(3, 2, 4, dtype=torch.float64)
    t, s = levels(3, 2)
    leaves = [a.requires_grad_() for a in (x, out, t, s, xi)]

    def step(x: Tensor, out: Tensor, t: Tensor, s: Tensor, xi: Tensor) -> Any:
        return reverse_step(x, out, t, s, eta=0.6, prediction=prediction, clip=1.1, use_clipped_model_output=reclip, noise=xi)

    assert torch.autograd.gradcheck(step, leaves)
    assert torch.autograd.gradcheck(lambda x, out, t, s: reverse_step(x, out, t, s, prediction=prediction), leaves[:4])
    assert torch.autograd.gradcheck(lambda x, out, t: predict_x0(x, out, t, prediction=prediction, clip=1.1), leaves[:3])


@native
def test_gradcheck_of_the_rest() -> None:
    x0, (xi, v) = torch.randn(3, 4, dtype=torch.float64).requires_grad_(), pair(3, 2, 4)
    t, s = levels(2)
    leaves = [a.requires_grad_() for a in (xi, v, t, s)]
    for sample in (q_sample, flow_sample):
        assert torch.autograd.gradcheck(sample, (x0, xi, t))
        assert torch.autograd.gradcheck(sample, (v, xi, t))
    assert torch.autograd.gradcheck(flow_step, leaves)
    ids = torch.arange(3)
    assert torch.autograd.gradcheck(lambda x, t, s: reverse_step(x, x, t, s, eta=0.5, seed=1, row_ids=ids), (xi, t, s))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    x, out, xi = (torch.randn(3, 2, 4).requires_grad_() for _ in range(3))
    t, s = (a.requires_grad_() for a in levels(3, 2, dtype=torch.float32))
    ids, x0 = torch.arange(3), torch.randn(3, 4).requires_grad_()
    for args in (
        (x, out, t, s, xi, None, 0.0, 0.0, 0.5, 2, 1.0, False, False, 0, 0),
        (x, out, None, s.detach().double(), None, ids, 0.04, 0.0, 0.5, 0, math.inf, True, True, 5, 6),
        (x, out, None, None, None, None, 0.3, 0.6, 0.0, 3, math.inf, False, False, 0, 0),
    ):
        torch.library.opcheck(KERNEL.reverse_step.default, args)
        plain = [a.detach() if isinstance(a, Tensor) else a for a in args]
        torch.library.opcheck(KERNEL._reverse_step.default, tuple(plain))
        for gs, g0, wanted in ((x.detach(), None, 31), (None, x.detach(), 3), (x.detach(), x.detach(), 8)):
            torch.library.opcheck(KERNEL.reverse_step_backward.default, (*plain[:6], gs, g0, *plain[6:], wanted))
    for kind in (0, 1, 2, 3):
        torch.library.opcheck(KERNEL.predict_x0.default, (x, out, t, 0.0, kind, 1.0))
        torch.library.opcheck(KERNEL.predict_x0_backward.default, (x.detach(), out.detach(), None, out.detach(), 0.3, kind, 1.0, 7))
    for kind in (0, 1):
        torch.library.opcheck(KERNEL.q_sample.default, (x0, xi, t, 0.0, kind))
        for wanted in (7, 1, 2):
            torch.library.opcheck(KERNEL.q_sample_backward.default, (x0.detach(), xi.detach(), t.detach(), x.detach(), 0.0, kind, wanted))
        torch.library.opcheck(KERNEL.q_sample_backward.default, (x0.detach(), xi.detach(), None, None, 0.5, kind, 3))


@pytest.mark.registration
@native
@pytest.mark.parametrize("noise", ["given", "seed"])
def test_four_ways_agree(noise: str) -> None:
    V, shape = 3, (4, 2, 5)
    xs, out = torch.randn(V, *shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    xi = torch.randn(shape, dtype=torch.float64)
    t, s = levels(*shape[:2])

    def loss(x: Tensor, out: Tensor, t: Tensor, s: Tensor) -> Tensor:
        made = dict(noise=xi) if noise == "given" else dict(seed=3, step=7)
        x_s, x0 = reverse_step(x, out, t, s, eta=0.5, prediction="v", clip=1.0, **made)
        return (x_s**2).sum() + (x0 * out).sum() + (q_sample(x0[:, 0], x, t) ** 2).sum() + predict_x0(x, out, t).sum()

    args = [a.clone().requires_grad_() for a in (xs[0], out, t, s)]
    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = [a.detach() for a in args]
    for way in (torch.autograd.grad(compiled(*args), args), torch.func.grad(loss, argnums=(0, 1, 2, 3))(*plain)):
        for a, b in zip(way, eager, strict=True):
            torch.testing.assert_close(a, b)
    each = [torch.func.grad(loss, argnums=(0, 1, 2, 3))(xs[i], *plain[1:]) for i in range(V)]
    batch = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)), in_dims=(1, None, None, None))(xs.movedim(0, 1), *plain[1:])
    for i, a in enumerate(batch):
        torch.testing.assert_close(a, torch.stack([e[i] for e in each]))


@native
def test_second_derivatives_and_forward_mode_raise() -> None:
    x, out = (a.requires_grad_() for a in pair(3, 4))
    (g,) = torch.autograd.grad(reverse_step(x, out, 0.3, 0.5, clip=1.0)[0].pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(g.sum(), x)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        forward_ad.unpack_dual(predict_x0(forward_ad.make_dual(x.detach(), out.detach()), out.detach(), 0.5))


# ---- bad input, backends

X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: reverse_step(X, torch.zeros(2, 4), 0.3, 0.5), ValueError, r"output: expected the shape of x_t, \[2, 3\], got \[2, 4\]"),
        (lambda: reverse_step(X, X.double(), 0.3, 0.5), TypeError, "output: expected the dtype of x_t"),
        (lambda: reverse_step(X[0], X[0], 0.3, 0.5), ValueError, r"x_t: expected \[B, D\] or \[B, K, D\], got 1 dimensions"),
        (lambda: reverse_step(X, X, 0.0, 0.5), ValueError, r"alpha_bar_t: expected values in \(0, 1\], got 0.0"),
        (lambda: reverse_step(X, X, 0.5, 1.5), ValueError, r"alpha_bar_s: expected values in \(0, 1\], got 1.5"),
        (lambda: reverse_step(X, X, torch.tensor([0.5, -0.5]), 0.5), ValueError, r"alpha_bar_t: expected values in \(0, 1\], got -0.5"),
        (lambda: reverse_step(X, X, torch.tensor(0.0), 0.5), ValueError, r"alpha_bar_t: expected values in \(0, 1\], got 0.0"),
        (lambda: reverse_step(X, X, torch.ones(3), 0.5), ValueError, r"alpha_bar_t: expected a number or a shape .* \[B\] = \[2\], got \[3\]"),  # noqa: E501
        (lambda: reverse_step(X, X, "a", 0.5), TypeError, "alpha_bar_t: expected a number or a tensor, got str"),
        (lambda: reverse_step(X, X, torch.ones(2).int(), 0.5), TypeError, "alpha_bar_t: expected float32"),
        (lambda: reverse_step(X, X, 0.3, 0.5, prediction="mu"), ValueError, "prediction: expected 'eps', 'x0' or 'v', got 'mu'"),
        (lambda: reverse_step(X, X, 0.3, 0.5, eta=-1), ValueError, "eta: expected a finite number of at least 0, got -1"),
        (lambda: reverse_step(X, X, 0.3, 0.5, clip=0.0), ValueError, "clip: expected a positive number or None, got 0"),
        (lambda: reverse_step(X, X, 0.3, 0.5, eta=1, noise=X[:1]), ValueError, r"noise: expected the shape of x_t"),
        (lambda: reverse_step(X, X, 0.3, 0.5, eta=1, seed=0, step=-1), ValueError, r"step: expected 0 to 2\^32 - 1, got -1"),
        (lambda: reverse_step(X, X, 0.3, 0.5, eta=1, seed=0, row_ids=torch.arange(3)), ValueError, r"row_ids: expected \[B\] = \[2\]"),
        (lambda: reverse_step(X, X, 0.3, 0.5, eta=1, seed=0, row_ids=X[:, 0]), TypeError, "row_ids: expected integers, got torch.float32"),
        (lambda: q_sample(X, torch.zeros(2, 5, 4), 0.5), ValueError, r"noise: expected \[B, D\] or \[B, K, D\] with B = 2, D = 3, got \[2, 5, 4\]"),  # noqa: E501
        (lambda: q_sample(X, X, 1.01), ValueError, r"alpha_bar: expected values in \(0, 1\], got 1.01"),
        (lambda: flow_sample(X, X, -0.1), ValueError, r"t: expected values in \[0, 1\], got -0.1"),
        (lambda: flow_step(X, X, 0.5, 1.1), ValueError, r"s: expected values in \[0, 1\], got 1.1"),
        (lambda: flow_step(X, X[:1], 0.5, 0.1), ValueError, "velocity: expected the shape of x_t"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["q_sample", "predict_x0", "reverse_step", "flow_sample", "flow_step"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])


@native
@pytest.mark.usefixtures("native")
def test_the_native_kernels_are_there() -> None:
    for op in ("q_sample", "predict_x0", "reverse_step", "flow_sample", "flow_step"):
        assert ordkernels.available_backends(op)["cpu"] == []
    with ordkernels.use_backend("cpu"):
        assert everything(X, X, X, X, 0.5, 0.6, "v", None)


# ---- Triton

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRET else "cpu"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (INTERPRET or DEVICE == "cuda"),
    reason="neither TRITON_INTERPRET=1 nor a GPU, or no triton",
)


@pytest.mark.triton
@needs_triton
@pytest.mark.parametrize(
    ("dtype", "shape", "form", "prediction", "clip"),
    [
        (torch.float32, (5, 7), "number", "eps", 2.0),
        (torch.float64, (3, 2, 6), "BK", "v", None),
        (torch.float32, (3, 2, 5), "B1", "x0", 1.0),
        (torch.bfloat16, (2, 3, 8), "K", "v", None),
        (torch.float16, (130, 4), "B", "eps", None),
        (torch.float64, (2, 1100), "number", "x0", 1.0),
        (torch.float32, (2, 1100), "B", "v", None),
        (torch.float32, (0, 5), "number", "v", None),
    ],
)
def test_triton_keeps_its_budget(dtype: torch.dtype, shape: tuple[int, ...], form: str, prediction: Any, clip: float | None) -> None:
    (x, out), noise, x0 = pair(*shape, dtype=dtype), torch.randn(shape).to(dtype), torch.randn(shape[0], shape[-1]).to(dtype)
    t: Any = 0.3
    s: Any = 0.6
    if form != "number":
        t, s = levels(*{"B": shape[:1], "BK": shape[:2], "K": shape[1:2], "B1": (shape[0], 1)}[form], dtype=torch.float32)
        t, s = t.to(DEVICE), s.to(DEVICE)
    x, out, x0, noise = (a.to(DEVICE) for a in (x, out, x0, noise))
    with ordkernels.use_backend("triton"):
        got = everything(x, out, x0, noise, t, s, prediction, clip)
    with ordkernels.use_backend("reference"):
        eager = everything(x, out, x0, noise, t, s, prediction, clip)
        truth = everything(*(a.double() for a in (x, out, x0, noise)), t, s, prediction, clip)
    assert_within_budget(got, eager, truth, scale=1.0)


@pytest.mark.triton
@needs_triton
@pytest.mark.parametrize("shape", [(3, 5), (2, 70), (3, 2, 8), (3, 2, 5)])
def test_triton_makes_the_noise_of_rng(shape: tuple[int, ...]) -> None:
    x, out = (a.to(DEVICE) for a in pair(*shape, dtype=torch.float32))
    ids = torch.randint(-(2**62), 2**62, shape[:1]).to(DEVICE)
    t, s = (a.to(DEVICE).requires_grad_() for a in levels(*shape[:-1], dtype=torch.float32))

    def run() -> list[Tensor]:
        step = reverse_step(x, out, t, s, eta=0.7, seed=2**63 + 5, row_ids=ids, step=9)
        plain = reverse_step(x, out, 0.3, 0.6, eta=0.7, seed=4)
        return [*(a.detach() for a in step), *gradients(step, [t, s]), *plain]

    with ordkernels.use_backend("triton"):
        got = run()
    with ordkernels.use_backend("reference"):
        for a, b in zip(got, run(), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
