"""The pinball (quantile) loss. Tensors, NumPy arrays or lists."""

from typing import Any

from torch import Tensor

from .._validation import arrays
from .._validation import tensors as checks
from ..reference import pinball as reference
from ._register import DifferentiableOp, empty_if
from ._scores import reject_nan, score_tensors

__all__ = ["pinball"]


def pinball(q: Any, y: Any, levels: Any) -> Any:
    """Quantile loss ``max(level (y - q), (level - 1) (y - q))``.

    Args:
        q: predicted quantiles ``[B, L]``; y: ``[B]``; levels: ``[L]`` in [0, 1].

    Returns:
        ``[B, L]``: a tensor for tensors (with gradients; fp32 for 16-bit inputs), else a NumPy array.

    Raises:
        TypeError, ValueError: shapes that do not match; levels outside [0, 1]; NaN, as for `crps`.

    Gradients: q, y.

    Source: Koenker and Bassett, Econometrica 46 (1978).

    Example:
        >>> pinball([[1.0, 4.0]], [3.0], [0.5, 0.75])
        array([[1.  , 0.25]])
    """
    p, t = score_tensors(q=q, y=y)
    at = _levels(levels, p)
    if p.dim() != 2 or p.shape[1] != at.shape[0]:
        raise ValueError(f"q: expected [B, L] with L = {at.shape[0]}, as levels, got {list(p.shape)}")
    if t.shape != p.shape[:1]:
        raise ValueError(f"y: expected [B] = [{p.shape[0]}], got {list(t.shape)}")
    out = _OP(p, t, at.to(p).expand(p.shape))
    reject_nan(out, q=p, y=t)
    return out if isinstance(q, Tensor) else out.numpy()


def _levels(levels: Any, q: Tensor) -> Tensor:
    if isinstance(levels, Tensor) and not checks.can_read_values(levels):
        (checks.dense if q.is_meta else checks.with_values)("levels", levels)
        return levels.detach()
    t: Tensor = arrays.as_tensor("levels", arrays.levels("levels", levels))  # one of length 1 may have any stride
    return t


def _fake(q: Tensor) -> Tensor:
    return q.new_empty(q.shape)


def _fake_backward(q: Tensor, y: Tensor, grad_mask: int) -> tuple[Tensor, Tensor]:
    return empty_if(grad_mask & 1, q), empty_if(grad_mask & 2, y)


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "pinball",
    tensors=3,
    public=1,
    reference=reference.pinball,
    reference_backward=reference.pinball_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:3],
)
