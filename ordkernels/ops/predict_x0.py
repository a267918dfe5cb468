"""The estimate of x0 from a denoiser's output."""

from typing import Any

from torch import Tensor

from .._validation import tensors as checks
from ..reference import predict_x0 as reference
from ..reference._diffusion import x0_slopes
from ._diffusion import Prediction, check_like, clip_limit, grad_dots, level_per_row, prediction_kind, weighted_dots
from ._register import DifferentiableOp, empty_if

__all__ = ["predict_x0"]


def predict_x0(
    x_t: Tensor, output: Tensor, alpha_bar: float | Tensor, *, prediction: Prediction = "eps", clip: float | None = None
) -> Tensor:
    r"""The estimate of x0 that a denoiser's output stands for.

    .. math:: \hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha}\, \hat\epsilon}{\sqrt{\bar\alpha}}, \quad \hat x_0, \quad
              \sqrt{\bar\alpha}\, x_t - \sqrt{1 - \bar\alpha}\, \hat v

    for ``"eps"``, ``"x0"`` and ``"v"``.

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        output: like x_t.
        alpha_bar: as in :func:`q_sample`.
        prediction: what the output is (:func:`denoise_chain` asks its denoiser, or takes ``"v"``).
        clip: bound of the estimate's magnitude, or None.

    Returns:
        like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, section 4.

    Example:
        >>> import torch
        >>> from ordkernels.ops import predict_x0
        >>> predict_x0(torch.ones(1, 2), torch.zeros(1, 2), 0.25)
        tensor([[2., 2.]])
    """
    if checks.autocast_is_active():
        x_t, output = checks.promoted(x_t, output)
    check_like("output", output, x_t)
    t, number = level_per_row("alpha_bar", alpha_bar, x_t)
    return _OP(x_t, output, t, number, prediction_kind(prediction), clip_limit(clip))


def _fake(x_t: Tensor) -> Tensor:
    return x_t.new_empty(x_t.shape)


def _fake_backward(x_t: Tensor, grad_mask: int) -> tuple[Tensor, ...]:
    return empty_if(grad_mask & 1, x_t), empty_if(grad_mask & 2, x_t), grad_dots(grad_mask & 4, x_t, 2)


def _finalize_grads(saved: Any, out: Any, consts: Any, grad_mask: int) -> tuple[Any, ...]:
    gx, go, dots = out
    t, kind = saved[2], consts[1]
    return gx, go, weighted_dots(x0_slopes(kind, t.double()), dots).to(t.dtype) if grad_mask & 4 else None


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "predict_x0",
    tensors=3,
    public=1,
    reference=reference.predict_x0,
    reference_backward=reference.predict_x0_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:3],
    finalize_grads=_finalize_grads,
)
