"""Guided steps of the posterior: against the formulas and diffusers, the kernels against fp64 truth."""

import importlib.util
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor

import ordkernels
from ordkernels import rng
from ordkernels.ops import guided_posterior_step
from ordkernels.schedules import NoiseSchedule
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import SIZES, strided

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KERNEL = torch.ops.ordkernels
GAMMAS: dict[str, Any] = dict(gamma_cp=2.0, gamma_tf=0.7)
native = pytest.mark.native


def branches(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x_t, f_un, f_cp, f_tf, noise."""
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(5)]


def levels(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """alpha_bar of t and of s < t."""
    t = torch.rand(shape, dtype=torch.float64) * 0.5 + 0.05
    return t.to(dtype), (t + (1 - t) * (torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1)).to(dtype)


def by_formula(x: Tensor, un: Tensor, cp: Tensor, tf: Tensor, t: Tensor, s: Tensor, beta: bool, xi: Any, gamma_cp: float, gamma_tf: float):
    """As the papers write it, in fp64."""
    x, un, cp, tf, t, s = (a.double() for a in (x, un, cp, tf, t[..., None], s[..., None]))
    f = un + gamma_cp * (cp - un) + gamma_tf * (tf - un)
    b = 1 - t / s
    var = b if beta else b * (1 - s) / (1 - t)
    return s.sqrt() * b / (1 - t) * f + (t / s).sqrt() * (1 - s) / (1 - t) * x + var.sqrt() * xi, f


@native
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_step_is_the_published_one(backend: str | None, variance: Any) -> None:
    for shape, form in (((6, 5), (6,)), ((4, 3, 5), (4, 3)), ((4, 3, 5), (3,)), ((4, 3, 5), (4, 1))):
        *fs, xi = branches(*shape)
        t, s = levels(*form)
        with ordkernels.use_backend(backend) if backend else torch.enable_grad():
            got = guided_posterior_step(*fs, t, s, **GAMMAS, variance=variance, noise=xi)
            mean = guided_posterior_step(*fs, t, s, **GAMMAS, variance=variance)
        for out, noise in ((got, xi), (mean, 0.0)):
            expected = by_formula(*fs, t, s, variance == "beta", noise, **GAMMAS)
            torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)


@native
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_diffusers_takes_the_same_steps(variance: Any) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    kind = {"posterior": "fixed_small", "beta": "fixed_large"}[variance]
    ddpm = diffusers.DDPMScheduler(
        num_train_timesteps=100, prediction_type="sample", clip_sample=False, variance_type=kind, beta_schedule="squaredcos_cap_v2"
    )
    ddpm.alphas_cumprod = ddpm.alphas_cumprod.double()
    schedule = NoiseSchedule.from_diffusers(ddpm)
    for every in (1, 5):  # all timesteps, and 20 of them
        ddpm.set_timesteps(100 // every)
        for t in (95, 50, 5, 0):  # their timestep t is our step t + 1
            x, un, cp, tf, _ = branches(8, 16)
            torch.manual_seed(t)
            theirs = ddpm.step(un + 2.0 * (cp - un) + 0.7 * (tf - un), t, x, generator=torch.Generator().manual_seed(t)).prev_sample
            noise = torch.randn(8, 16, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
            a_t, a_s = schedule.exact[t + 1], schedule.exact[max(t + 1 - every, 0)]
            ours, _ = guided_posterior_step(x, un, cp, tf, a_t, a_s, **GAMMAS, variance=variance, noise=noise)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_a_branch_without_gamma_is_not_read(backend: str | None) -> None:
    x, un, cp, tf, _ = branches(4, 9, dtype=torch.float32)
    cp[1], tf[2, 3] = math.nan, math.inf
    un.requires_grad_()
    cp.requires_grad_()
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        x_s, f = guided_posterior_step(x, un, cp, tf, 0.4, 0.7, gamma_cp=0.0, gamma_tf=0)
        plain = guided_posterior_step(x, un, un, un, 0.4, 0.7, gamma_cp=0.0, gamma_tf=0.0)
        one = guided_posterior_step(x, un, cp, tf, 0.4, 0.7, gamma_cp=0.0, gamma_tf=1.5)[1]
        g_un, g_cp = torch.autograd.grad(f.sum(), (un, cp), allow_unused=True)
    assert torch.equal(f, un)
    assert torch.equal(x_s, plain[0])
    assert torch.equal(one.isfinite(), tf.isfinite())
    assert torch.equal(g_un, torch.ones_like(un))
    assert g_cp is None or not g_cp.any()


@native
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("shape", [(9, 1), (5, 3), (3, 300), (2, 1030), (5, 3, 7), (3, 4, 64)])
def test_noise_is_that_of_rng_and_belongs_to_the_row(backend: str | None, shape: tuple[int, ...]) -> None:
    *fs, _ = branches(*shape)
    ids = torch.randint(-(2**62), 2**62, shape[:1])
    t, s = levels(*shape[:-1])
    xi = rng.normal(-7, ids, 12, math.prod(shape[1:])).view(shape).double()
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        got = guided_posterior_step(*fs, t, s, **GAMMAS, seed=-7, row_ids=ids, step=12)
        rows = torch.tensor([1, 0])
        part = guided_posterior_step(*(f[rows] for f in fs), t[rows], s[rows], **GAMMAS, seed=2**64 - 7, row_ids=ids[rows], step=12)
        assert same_bits(part, [a[rows] for a in got])
        torch.testing.assert_close(got, guided_posterior_step(*fs, t, s, **GAMMAS, noise=xi), rtol=1e-6, atol=3e-6)


@native
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_no_noise_at_the_end(backend: str | None, variance: Any) -> None:
    *fs, xi = branches(3, 4)
    end = torch.tensor([1.0, 0.9, 1.0], dtype=torch.float64).requires_grad_()
    xi[0] = math.nan
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        for noise in (dict(noise=xi), dict(seed=3)):
            x_s, f = guided_posterior_step(*fs, 0.3, 1.0, **GAMMAS, variance=variance, **noise)
            assert torch.equal(x_s, f)
            x_s, f = guided_posterior_step(*fs, 0.3, end, **GAMMAS, variance=variance, **noise)
            torch.testing.assert_close(x_s[[0, 2]], f[[0, 2]], rtol=1e-12, atol=1e-12)
            assert (x_s[1] - f[1]).abs().max() > 1e-3
            (g,) = torch.autograd.grad(x_s.sum(), end)
            assert g.isfinite().all()


# ---- accuracy, sizes, layouts


def everything(fs: list[Tensor], t: Any, s: Any, variance: Any = "posterior", gammas: dict[str, float] = GAMMAS) -> list[Tensor]:
    """Outputs and all gradients."""
    *fs, xi = [a.detach().clone().requires_grad_() for a in fs]
    t, s = (a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in (t, s))
    out = guided_posterior_step(*fs, t, s, **gammas, variance=variance, noise=xi)
    g = [torch.linspace(-1, 1, a.numel(), dtype=torch.float64).cos().mul(64).round().div(64).view(a.shape).to(a) for a in out]  # exact
    leaves = [*fs, xi, *(a for a in (t, s) if isinstance(a, Tensor))]
    return [*(a.detach() for a in out), *torch.autograd.grad(out, leaves, g)]


def in_budget(backend: str | None, fs: list[Tensor], t: Any, s: Any, variance: Any) -> None:
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        got = everything(fs, t, s, variance)
    with ordkernels.use_backend("reference"):
        eager = everything(fs, t, s, variance)
        truth = everything([a.double() for a in fs], t, s, variance)
    assert_within_budget(got, eager, truth, ulps=32.0, scale=1.0)  # a level's gradient is a sum of large terms


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("form", ["number", "B", "BK", "K"])
def test_errors_keep_their_budget(dtype: torch.dtype, variance: Any, form: str) -> None:
    for size in SIZES if form in ("number", "B") else (0, 1, 9):
        shape = (size, 11) if form in ("number", "B") else (size, 3, 11)
        t, s = (0.3, 0.6) if form == "number" else levels(*{"B": shape[:1], "BK": shape[:2], "K": shape[1:2]}[form], dtype=torch.float32)
        in_budget(None, branches(*shape, dtype=dtype), t, s, variance)


@native
def test_strides_and_threads_do_not_matter() -> None:
    *fs, xi = branches(1500, 3, 10, dtype=torch.float32)
    t, s = levels(1500, 3, dtype=torch.float32)
    plain = guided_posterior_step(*fs, t, s, **GAMMAS, noise=xi)
    assert same_bits(guided_posterior_step(*map(strided, fs), strided(t), strided(s), **GAMMAS, noise=strided(xi)), plain)
    before = torch.get_num_threads()
    made = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            made.append(guided_posterior_step(*fs, t, s, **GAMMAS, seed=1))
    finally:
        torch.set_num_threads(before)
    assert same_bits(*made)


@native
def test_outputs_that_go_past_the_caches() -> None:
    fs = branches(33000, 64, dtype=torch.float32)
    for d in (64, 63):  # rows that are aligned, and not
        given = [f[:, :d].contiguous() for f in fs]
        made = everything(given, 0.3, 0.6)
        seeded = guided_posterior_step(*given[:4], 0.3, 0.6, **GAMMAS, seed=1)
        parts = [guided_posterior_step(*(f[i::2] for f in given[:4]), 0.3, 0.6, **GAMMAS, noise=given[4][i::2]) for i in (0, 1)]
        assert all(torch.equal(made[j][i::2], parts[i][j]) for i in (0, 1) for j in (0, 1))
        part = guided_posterior_step(*(f[-9:] for f in given[:4]), 0.3, 0.6, **GAMMAS, seed=1, row_ids=torch.arange(32991, 33000))
        assert same_bits(part, [a[-9:] for a in seeded])
        assert all(a.isfinite().all() for a in made)


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_nan_stays_in_its_row(backend: str | None) -> None:
    *fs, _ = branches(5, 20, dtype=torch.float32)
    t = torch.full((5,), 0.4)
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        clean = guided_posterior_step(*fs, t, 0.7, **GAMMAS)
        fs[2][1, 3], fs[0][4, 2], t[2] = math.nan, math.nan, math.nan
        x_s, f = got = guided_posterior_step(*fs, t, 0.7, **GAMMAS)
    assert same_bits([a[[0, 3]] for a in got], [a[[0, 3]] for a in clean])
    assert x_s[1].isnan().nonzero().tolist() == f[1].isnan().nonzero().tolist() == [[3]]
    assert x_s[2].isnan().all()
    assert same_bits((f[[2, 4]],), (clean[1][[2, 4]],))
    assert x_s[4].isnan().nonzero().tolist() == [[2]]


# ---- every way through autograd


@native
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_gradcheck(variance: Any) -> None:
    fs, (t, s) = branches(3, 2, 4), levels(3, 2)
    leaves = [a.requires_grad_() for a in (*fs[:4], t, s, fs[4])]
    made: dict[str, Any] = dict(seed=1, row_ids=torch.arange(3))

    def step(x: Tensor, un: Tensor, cp: Tensor, tf: Tensor, t: Tensor, s: Tensor, xi: Tensor) -> Any:
        return guided_posterior_step(x, un, cp, tf, t, s, **GAMMAS, variance=variance, noise=xi)

    assert torch.autograd.gradcheck(step, leaves)
    assert torch.autograd.gradcheck(lambda *a: guided_posterior_step(*a, **GAMMAS, variance=variance), leaves[:6])
    assert torch.autograd.gradcheck(lambda t, s: guided_posterior_step(*fs[:4], t, s, **GAMMAS, variance=variance, **made), leaves[4:6])
    assert torch.autograd.gradcheck(lambda *a: guided_posterior_step(*a, gamma_cp=0.0, gamma_tf=-0.5), leaves[:6])


@pytest.mark.registration
@native
def test_opcheck() -> None:
    *fs, xi = [a.requires_grad_() for a in branches(3, 2, 4, dtype=torch.float32)]
    t, s = (a.requires_grad_() for a in levels(3, 2, dtype=torch.float32))
    for args in (
        (*fs, t, s, xi, None, 0.0, 0.0, 2.0, 0.7, False, False, 0, 0),
        (*fs, None, s.detach().double(), None, torch.arange(3), 0.04, 0.0, 2.0, 0.0, True, True, 5, 6),
    ):
        torch.library.opcheck(KERNEL.guided_posterior_step.default, args)
        plain = [a.detach() if isinstance(a, Tensor) else a for a in args]
        torch.library.opcheck(KERNEL._guided_posterior_step.default, tuple(plain))
        for gs, gf, grad_mask in ((xi.detach(), None, 127), (None, xi.detach(), 15), (xi.detach(), xi.detach(), 32)):
            torch.library.opcheck(KERNEL.guided_posterior_step_backward.default, (*plain[:8], gs, gf, *plain[8:], grad_mask))


@pytest.mark.registration
@native
@pytest.mark.parametrize("noise", ["given", "seed"])
def test_four_ways_agree(noise: str) -> None:
    V, shape = 3, (4, 2, 5)
    xs, (_, un, cp, tf, xi) = torch.randn(V, *shape, dtype=torch.float64), branches(*shape)
    t, s = levels(*shape[:2])

    def loss(x: Tensor, cp: Tensor, t: Tensor, s: Tensor) -> Tensor:
        made: dict[str, Any] = dict(noise=xi) if noise == "given" else dict(seed=3, step=7)
        x_s, f = guided_posterior_step(x, un, cp, tf, t, s, **GAMMAS, **made)
        return (x_s**2).sum() + (f * un).sum()

    args = [a.clone().requires_grad_() for a in (xs[0], cp, t, s)]
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
def test_second_derivatives_raise() -> None:
    *fs, _ = [a.requires_grad_() for a in branches(3, 4)]
    (g,) = torch.autograd.grad(guided_posterior_step(*fs, 0.3, 0.5, **GAMMAS)[0].pow(2).sum(), fs[1], create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(g.sum(), fs[1])


# ---- bad input, backends

X = torch.zeros(2, 3)


def call(x_t: Any = X, f_un: Any = X, f_cp: Any = X, f_tf: Any = X, t: Any = 0.3, s: Any = 0.5, **more: Any) -> Any:
    return guided_posterior_step(x_t, f_un, f_cp, f_tf, t, s, **(GAMMAS | more))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(x_t=X[0]), ValueError, r"x_t: expected \[B, D\] or \[B, K, D\], got 1 dimensions"),
        (dict(f_un=X[:1]), ValueError, r"f_un: expected the shape of x_t, \[2, 3\], got \[1, 3\]"),
        (dict(f_cp=X.double()), TypeError, "f_cp: expected the dtype of x_t"),
        (dict(f_tf=1.0), TypeError, "f_tf: expected a torch.Tensor, got float"),
        (dict(t=0.0), ValueError, r"alpha_bar_t: expected values in \(0, 1\], got 0.0"),
        (dict(s=torch.ones(3)), ValueError, r"alpha_bar_s: expected a number or a shape .* \[B\] = \[2\], got \[3\]"),
        (dict(gamma_cp=math.nan), ValueError, "gamma_cp: expected a finite number, got nan"),
        (dict(gamma_tf="a"), TypeError, "gamma_tf: expected a number, got str"),
        (dict(variance="learned"), ValueError, "variance: expected 'posterior' or 'beta', got 'learned'"),
        (dict(noise=X[:1]), ValueError, "noise: expected the shape of x_t"),
        (dict(seed=0, step=-1), ValueError, r"step: expected 0 to 2\^32 - 1, got -1"),
        (dict(seed=0, row_ids=torch.arange(3)), ValueError, r"row_ids: expected \[B\] = \[2\]"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(**change)


@native
@pytest.mark.usefixtures("native")
def test_the_native_kernel_is_there() -> None:
    listed = ordkernels.available_backends("guided_posterior_step")
    assert listed["reference"] == listed["cpu"] == []
    with ordkernels.use_backend("cpu"):
        assert call()[0].shape == (2, 3)


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
    ("dtype", "shape", "form", "variance"),
    [
        (torch.float32, (5, 7), "number", "posterior"),
        (torch.float64, (3, 2, 6), "BK", "beta"),
        (torch.bfloat16, (2, 3, 8), "K", "posterior"),
        (torch.float16, (130, 4), "B", "beta"),
        (torch.float64, (2, 1100), "number", "posterior"),
        (torch.float32, (0, 5), "B", "posterior"),
    ],
)
def test_triton_keeps_its_budget(dtype: torch.dtype, shape: tuple[int, ...], form: str, variance: Any) -> None:
    t: Any = 0.3
    s: Any = 0.6
    if form != "number":
        t, s = (a.to(DEVICE) for a in levels(*{"B": shape[:1], "BK": shape[:2], "K": shape[1:2]}[form], dtype=torch.float32))
    in_budget("triton", [a.to(DEVICE) for a in branches(*shape, dtype=dtype)], t, s, variance)


@pytest.mark.triton
@needs_triton
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 8), (3, 2, 5)])
def test_triton_makes_the_noise_of_rng_and_skips_what_has_no_share(shape: tuple[int, ...]) -> None:
    *fs, xi = (a.to(DEVICE) for a in branches(*shape, dtype=torch.float32))
    ids = torch.randint(-(2**62), 2**62, shape[:1]).to(DEVICE)
    t, s = (a.to(DEVICE).requires_grad_() for a in levels(*shape[:-1], dtype=torch.float32))
    s.data[0] = 1.0
    xi[0] = fs[2][1] = math.nan

    def run() -> list[Tensor]:
        out = []
        for noise in (dict(seed=2**63 + 5, row_ids=ids, step=9), dict(noise=xi)):
            step = guided_posterior_step(*fs, t, s, gamma_cp=0.0, gamma_tf=0.7, **noise)  # type: ignore[arg-type]
            out += [*(a.detach() for a in step), *torch.autograd.grad(step[0].sum(), [t, s])]
        return out

    with ordkernels.use_backend("triton"):
        got = run()
    with ordkernels.use_backend("reference"):
        for a, b in zip(got, run(), strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
