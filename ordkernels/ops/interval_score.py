"""The interval (Winkler) score."""

from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import real
from ..reference import interval_score as reference
from ..reference._common import compute_dtype
from ._register import DifferentiableOp, empty_if

__all__ = ["interval_score"]


def interval_score(lower: Tensor, upper: Tensor, y: Tensor, level: float) -> Tensor:
    r"""Per row, the score of a central prediction interval: its width, and a penalty for a label outside; lower is better.

    :math:`u - l + \frac{2}{1 - \gamma} (\max(l - y, 0) + \max(y - u, 0))`, whose expectation is lowest where the
    bounds are the labels' quantiles of levels :math:`(1 \mp \gamma) / 2`.

    Args:
        lower: Lower bounds l ``[B]``, in the unit of the labels.
        upper: Upper bounds u ``[B]``, of the dtype and device of lower. One below its lower bound is allowed: the width is then
            negative and the label outside on at least one side, which scores worse than the two bounds in order.
        y: Labels ``[B]``, of the dtype and device of lower.
        level: The share gamma of the labels that the interval is to hold, in (0, 1).

    Returns:
        ``[B]``, computed in fp32 (fp64 for fp64 inputs), in that dtype.

    Raises:
        TypeError: An argument that is not a floating tensor, or of another dtype than lower.
        ValueError: Shapes that differ, or a level outside (0, 1).

    Gradients: lower, upper, y; where the label is on a bound, half of each side's, as `pinball`.

    Source: Gneiting and Raftery, JASA 102 (2007), eq. 43.

    Example:
        >>> import torch
        >>> from ordkernels.ops import interval_score
        >>> interval_score(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 5.0]), torch.tensor([2.0, 2.0]), 0.75)
        tensor([ 2., 10.])
    """
    if checks.autocast_is_active():
        lower, upper, y = checks.promoted(lower, upper, y)
    checks.floating("lower", lower)
    checks.dims("lower", lower, (1,), "[B]")
    for name, t in (("upper", upper), ("y", y)):
        checks.same(name, t, "lower", lower)
        checks.shape(name, t, lower.shape, "[B]")
    level = real("level", level)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    dtype = compute_dtype(lower)
    out: Tensor = _OP(lower.to(dtype), upper.to(dtype), y.to(dtype), level)
    return out


def _fake(lower: Tensor) -> Tensor:
    return lower.new_empty(lower.shape)


def _fake_backward(lower: Tensor, upper: Tensor, y: Tensor, grad_mask: int) -> tuple[Tensor, Tensor, Tensor]:
    return empty_if(grad_mask & 1, lower), empty_if(grad_mask & 2, upper), empty_if(grad_mask & 4, y)


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "interval_score",
    tensors=3,
    public=1,
    reference=reference.interval_score,
    reference_backward=reference.interval_score_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:3],
)
