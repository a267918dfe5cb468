"""A target as K increments."""

from torch import Tensor

from .._validation import tensors as checks
from ..reference import encode_increments as reference
from ._increments import check_widths, fold_widths
from ._register import DifferentiableOp

__all__ = ["encode_increments"]


def encode_increments(y: Tensor, widths: Tensor) -> Tensor:
    r"""Split targets at the edges :math:`c_k = w_1 + \dots + w_k` into increments that sum to them.

    .. math:: v_k = \mathrm{clip}(y - c_{k-1},\ 0,\ w_k), \qquad \sum_k v_k = \mathrm{clip}(y, 0, c_K)

    Args:
        y: targets ``[B]``.
        widths: ``[K]`` for all rows or ``[B, K]``, not negative, in the units of y.

    Returns:
        ``[B, K]`` like y. Where y meets an edge, both sides pass the gradient, as torch.clamp does.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; one dtype and device.

    Source: DiffoR, monotone increment aggregation.

    Example:
        >>> import torch
        >>> from ordkernels.ops import encode_increments
        >>> encode_increments(torch.tensor([2.5]), torch.tensor([1.0, 1.0, 1.0, 1.0]))
        tensor([[1.0000, 1.0000, 0.5000, 0.0000]])
    """
    if checks.autocast_is_active():
        y, widths = checks.promoted(y, widths)
    checks.floating("y", y)
    checks.dims("y", y, (1,), "[B]")
    check_widths(widths, "y", y, None)
    return _OP(y, widths)


def _fake(y: Tensor, widths: Tensor) -> Tensor:
    return y.new_empty((y.shape[0], widths.shape[-1]))


def _fake_backward(y: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), widths.new_empty(widths.shape)


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "encode_increments",
    tensors=2,
    public=1,
    reference=reference.encode_increments,
    reference_backward=reference.encode_increments_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:2],
    vmap=fold_widths,
    cuda=True,
)
