"""The combination of guided estimates of x0 and one step of the posterior, in one pass."""

import math
from typing import Any, Literal

from torch import Tensor

from ..reference import denoise_guided as reference
from ..reference.denoise import per_row
from ._autograd import DifferentiableOp
from .denoise import _check_pair, _dot, _dots, _fake_step, _if, _noise, _per_row, _vmap

__all__ = ["guided_posterior_step"]


def guided_posterior_step(
    x_t: Tensor,
    f_un: Tensor,
    f_cp: Tensor,
    f_tf: Tensor,
    alpha_bar_t: float | Tensor,
    alpha_bar_s: float | Tensor,
    *,
    gamma_cp: float,
    gamma_tf: float,
    variance: Literal["posterior", "beta"] = "posterior",
    noise: Tensor | None = None,
    seed: int | None = None,
    row_ids: Tensor | None = None,
    step: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""One step of the DDPM posterior from level t to s < t, given estimates of x0 without guidance and under two kinds of it.

    .. math:: \hat f &= f_{un} + \gamma_{cp} (f_{cp} - f_{un}) + \gamma_{tf} (f_{tf} - f_{un}) \
              x_s &= \frac{\sqrt{\bar\alpha_s}\, \beta}{1 - \bar\alpha_t} \hat f
                   + \sqrt{\bar\alpha_t / \bar\alpha_s}\, \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} x_t + \sigma \xi, \qquad
              \beta = 1 - \bar\alpha_t / \bar\alpha_s

    with :math:`\sigma^2 = \beta (1 - \bar\alpha_s) / (1 - \bar\alpha_t)`, the posterior's, or :math:`\beta`; no noise where
    alpha_bar_s is 1. A branch whose gamma is 0 is not read, so its content does not matter, NaN included, and its gradient is 0:
    with both gammas 0 f_hat is f_un, bit for bit.

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        f_un, f_cp, f_tf: like x_t; the denoiser's estimates of x0 without guidance, by the core preference, by the transient one.
        alpha_bar_t, alpha_bar_s: in (0, 1], numbers or tensors that broadcast right-aligned to the rows, as in :func:`reverse_step`;
            alpha_bar_s is the larger, and alpha_bar_t below 1.
        gamma_cp, gamma_tf: finite numbers, the strengths of guidance.
        variance: of the noise.
        noise: like x_t; or
        seed, row_ids, step: noise made on the way, never stored, as in :func:`reverse_step`; without noise and seed x_s is the mean.

    Returns:
        x_s and f_hat, like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: iFusion, its two-signal guidance and algorithm 2; Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, eq. 6 and 7.

    Example:
        >>> import torch
        >>> from ordkernels.ops import guided_posterior_step
        >>> x_t, un, cp, tf = torch.randn(4, 8, 64).unbind()
        >>> x_s, f_hat = guided_posterior_step(x_t, un, cp, tf, 0.5, 0.7, gamma_cp=2.0, gamma_tf=1.0, seed=0, step=20)
        >>> x_s.shape, f_hat.shape
        (torch.Size([8, 64]), torch.Size([8, 64]))
    """
    _check_pair(x_t, f_un, "f_un")
    _check_pair(x_t, f_cp, "f_cp")
    _check_pair(x_t, f_tf, "f_tf")
    t, a_t = _per_row("alpha_bar_t", alpha_bar_t, x_t, False)
    s, a_s = _per_row("alpha_bar_s", alpha_bar_s, x_t, False)
    gammas = _gamma("gamma_cp", gamma_cp), _gamma("gamma_tf", gamma_tf)
    if variance not in ("posterior", "beta"):
        raise ValueError(f"variance: expected 'posterior' or 'beta', got {variance!r}")
    if (noise is None and seed is None) or (s is None and a_s == 1):
        return _GUIDED(x_t, f_un, f_cp, f_tf, t, s, None, None, a_t, a_s, *gammas, variance == "beta", False, 0, 0)
    noise, ids, seed = _noise(x_t, noise, seed, row_ids, step)
    return _GUIDED(x_t, f_un, f_cp, f_tf, t, s, noise, ids, a_t, a_s, *gammas, variance == "beta", noise is None, seed, step)


def _gamma(name: str, gamma: Any) -> float:
    if isinstance(gamma, bool) or not isinstance(gamma, int | float):
        raise TypeError(f"{name}: expected a number, got {type(gamma).__name__}")
    if not math.isfinite(gamma):
        raise ValueError(f"{name}: expected a finite number, got {gamma}")
    return float(gamma)


def _fake_backward(x_t: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    wanted = rest[-1]
    return (*(_if(wanted & bit, x_t) for bit in (1, 2, 4, 8, 64)), _dots(wanted & 48, x_t, 3))


def _finish(saved: Any, out: Any, consts: Any, wanted: int) -> tuple[Any, ...]:
    *grads, gn, dots = out
    gt = gs = None
    if wanted & 48:
        t, s = per_row(saved[4], consts[0], dots), per_row(saved[5], consts[1], dots)
        by_t, by_s = reference.posterior_slopes(t, s, consts[4])
        gt = _dot(by_t, dots).to(saved[4].dtype) if wanted & 16 else None
        gs = _dot(by_s, dots).to(saved[5].dtype) if wanted & 32 else None
    return (*grads, gt, gs, gn)


_GUIDED = DifferentiableOp(
    "guided_posterior_step",
    tensors=8,
    public=2,
    reference=reference.guided_posterior_step,
    reference_backward=reference.guided_posterior_step_backward,
    fake=_fake_step,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:8],
    vmap=_vmap,
    lazy=True,
    finish=_finish,
    triton="guided_posterior_step",
)
