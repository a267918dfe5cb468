"""Reverse steps: against published formulas and diffusers, row-keyed noise, gradients."""

import itertools
import math
from typing import Any

import pytest
import torch
from _diffusion import (
    DEVICE,
    KERNEL,
    PREDICTIONS,
    X,
    by_formula,
    gradients,
    levels,
    native,
    needs_triton,
    pair,
)
from torch import Tensor

import ordkernels
from ordkernels import rng
from ordkernels.ops import predict_x0, reverse_step
from ordkernels.schedules import NoiseSchedule
from ordkernels.testing.compare import same_bits


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
def test_gradcheck_of_row_keyed_noise() -> None:
    xi, t, s = torch.randn(3, 2, 4, dtype=torch.float64).requires_grad_(), *(a.requires_grad_() for a in levels(2))
    ids = torch.arange(3)
    assert torch.autograd.gradcheck(lambda x, t, s: reverse_step(x, x, t, s, eta=0.5, seed=1, row_ids=ids), (xi, t, s))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    x, out, xi = (torch.randn(3, 2, 4).requires_grad_() for _ in range(3))
    t, s = (a.requires_grad_() for a in levels(3, 2, dtype=torch.float32))
    ids = torch.arange(3)
    for args in (
        (x, out, t, s, xi, None, 0.0, 0.0, 0.5, 2, 1.0, False, False, 0, 0),
        (x, out, None, s.detach().double(), None, ids, 0.04, 0.0, 0.5, 0, math.inf, True, True, 5, 6),
        (x, out, None, None, None, None, 0.3, 0.6, 0.0, 3, math.inf, False, False, 0, 0),
    ):
        torch.library.opcheck(KERNEL.reverse_step.default, args)
        plain = [a.detach() if isinstance(a, Tensor) else a for a in args]
        torch.library.opcheck(KERNEL._reverse_step.default, tuple(plain))
        for gs, g0, grad_mask in ((x.detach(), None, 31), (None, x.detach(), 3), (x.detach(), x.detach(), 8)):
            torch.library.opcheck(KERNEL.reverse_step_backward.default, (*plain[:6], gs, g0, *plain[6:], grad_mask))


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
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["reverse_step"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])


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
