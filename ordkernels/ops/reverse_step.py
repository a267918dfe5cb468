"""One reverse step of diffusion, fused with the estimate of x0."""

from typing import Any

from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import boolean, real
from ..reference import reverse_step as reference
from ..reference._diffusion import per_row, step_slopes, x0_slopes
from ._diffusion import (
    Prediction,
    check_like,
    clip_limit,
    fake_step,
    grad_dots,
    level_per_row,
    prediction_kind,
    step_noise,
    weighted_dots,
)
from ._register import DifferentiableOp, empty_if

__all__ = ["reverse_step"]


def reverse_step(
    x_t: Tensor,
    output: Tensor,
    alpha_bar_t: float | Tensor,
    alpha_bar_s: float | Tensor,
    *,
    eta: float = 0.0,
    prediction: Prediction = "eps",
    clip: float | None = None,
    use_clipped_model_output: bool = False,
    noise: Tensor | None = None,
    seed: int | None = None,
    row_ids: Tensor | None = None,
    step: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""One reverse step from level t to s, and the estimate of x0 that it goes through.

    .. math:: x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma \xi, \qquad
              \sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        output: the denoiser's, like x_t.
        alpha_bar_t, alpha_bar_s: as in :func:`q_sample`; with ``eta > 0`` alpha_bar_s is the larger.
        eta: stochasticity, 0 for DDIM, 1 for DDPM.
        prediction: what the output is (:func:`denoise_chain` asks its denoiser, or takes ``"v"``).
        clip: bound of the magnitude of the estimate of x0, or None.
        use_clipped_model_output: take epsilon from x_t and the clipped estimate, as DDPM does, not from the output.
        noise: explicit noise, like x_t; or
        seed, row_ids, step: row-keyed noise, generated in the kernel and never materialized: :func:`ordkernels.rng.normal` of width
            ``K D`` at ``k D + d``, for row_ids ``[B]``, any integers; None means 0, ..., B - 1.

    Returns:
        x_s and x0, like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; also where noise is needed (eta > 0, unless
        alpha_bar_s is the number 1) and neither noise nor seed is given.

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, eq. 12 and 16.

    Example:
        >>> import torch
        >>> from ordkernels.ops import reverse_step
        >>> x_s, x0 = reverse_step(torch.randn(8, 64), torch.randn(8, 64), 0.5, 0.7, eta=1.0, seed=0, step=20)
        >>> x_s.shape, x0.shape
        (torch.Size([8, 64]), torch.Size([8, 64]))
    """
    if checks.autocast_is_active():
        x_t, output, noise = checks.promoted(x_t, output, noise)
    check_like("output", output, x_t)
    t, a_t = level_per_row("alpha_bar_t", alpha_bar_t, x_t)
    s, a_s = level_per_row("alpha_bar_s", alpha_bar_s, x_t)
    eta, kind, limit = real("eta", eta, least=0), prediction_kind(prediction), clip_limit(clip)
    reclip = boolean("use_clipped_model_output", use_clipped_model_output)
    if eta == 0 or (s is None and a_s == 1):
        return _OP(x_t, output, t, s, None, None, a_t, a_s, 0.0, kind, limit, reclip, False, 0, 0)
    noise, ids, seed, step = step_noise(x_t, noise, seed, row_ids, step)
    return _OP(x_t, output, t, s, noise, ids, a_t, a_s, eta, kind, limit, reclip, noise is None, seed, step)


def _fake_backward(x_t: Tensor, grad_mask: int) -> tuple[Tensor, ...]:
    gx, go, gn = (empty_if(grad_mask & bit, x_t) for bit in (1, 2, 16))
    return gx, go, gn, grad_dots(grad_mask & 12, x_t, 6)


def _finalize_grads(saved: Any, out: Any, consts: Any, grad_mask: int) -> tuple[Any, ...]:
    gx, go, gn, dots = out
    gt = gs = None
    if grad_mask & 12:
        a_t, a_s, eta, kind, _, reclip = consts[:6]
        t, s = per_row(saved[2], a_t, gx), per_row(saved[3], a_s, gx)
        by_t, by_s = step_slopes(kind, t, s, eta, reclip)
        if grad_mask & 4:
            gt = (weighted_dots(x0_slopes(kind, t), dots[..., :2]) + weighted_dots(by_t, dots[..., 2:])).to(saved[2].dtype)
        if grad_mask & 8:
            gs = weighted_dots(by_s, dots[..., 2:]).to(saved[3].dtype)
    return gx, go, gt, gs, gn


_OP: DifferentiableOp[tuple[Tensor, Tensor]] = DifferentiableOp(
    "reverse_step",
    tensors=6,
    public=2,
    reference=reference.reverse_step,
    reference_backward=reference.reverse_step_backward,
    fake=fake_step,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:6],
    finalize_grads=_finalize_grads,
)
