"""The combination of guided estimates of x0 and one step of the posterior, in one pass."""

from typing import Any, Literal

from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import one_of, real
from ..reference import guided_posterior_step as reference
from ..reference._diffusion import per_row
from ._diffusion import check_like, fake_step, grad_dots, level_per_row, step_noise, weighted_dots
from ._register import DifferentiableOp, empty_if

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
        noise: explicit noise, like x_t; or
        seed, row_ids, step: row-keyed noise, as in :func:`reverse_step`. Without noise and seed x_s is the mean, which needs none.

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
    if checks.autocast_is_active():
        x_t, f_un, f_cp, f_tf, noise = checks.promoted(x_t, f_un, f_cp, f_tf, noise)
    for name, f in (("f_un", f_un), ("f_cp", f_cp), ("f_tf", f_tf)):
        check_like(name, f, x_t)
    t, a_t = level_per_row("alpha_bar_t", alpha_bar_t, x_t)
    s, a_s = level_per_row("alpha_bar_s", alpha_bar_s, x_t)
    gammas = real("gamma_cp", gamma_cp), real("gamma_tf", gamma_tf)
    beta = one_of("variance", variance, ("posterior", "beta")) == "beta"
    if (noise is None and seed is None) or (s is None and a_s == 1):
        return _OP(x_t, f_un, f_cp, f_tf, t, s, None, None, a_t, a_s, *gammas, beta, False, 0, 0)
    noise, ids, seed, step = step_noise(x_t, noise, seed, row_ids, step)
    return _OP(x_t, f_un, f_cp, f_tf, t, s, noise, ids, a_t, a_s, *gammas, beta, noise is None, seed, step)


def _fake_backward(x_t: Tensor, grad_mask: int) -> tuple[Tensor, ...]:
    return (*(empty_if(grad_mask & bit, x_t) for bit in (1, 2, 4, 8, 64)), grad_dots(grad_mask & 48, x_t, 3))


def _finalize_grads(saved: Any, out: Any, consts: Any, grad_mask: int) -> tuple[Any, ...]:
    *grads, gn, dots = out
    gt = gs = None
    if grad_mask & 48:
        t, s = per_row(saved[4], consts[0], dots), per_row(saved[5], consts[1], dots)
        by_t, by_s = reference.posterior_slopes(t, s, consts[4])
        gt = weighted_dots(by_t, dots).to(saved[4].dtype) if grad_mask & 16 else None
        gs = weighted_dots(by_s, dots).to(saved[5].dtype) if grad_mask & 32 else None
    return (*grads, gt, gs, gn)


_OP: DifferentiableOp[tuple[Tensor, Tensor]] = DifferentiableOp(
    "guided_posterior_step",
    tensors=8,
    public=2,
    reference=reference.guided_posterior_step,
    reference_backward=reference.guided_posterior_step_backward,
    fake=fake_step,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:8],
    finalize_grads=_finalize_grads,
)
