"""The continuous ranked probability score of a sample. Tensors, NumPy arrays or lists."""

from typing import Any

from torch import Tensor

from .._validation.numbers import boolean
from ..reference import crps as reference
from ._register import DifferentiableOp, empty_if
from ._scores import reject_nan, score_tensors

__all__ = ["crps"]


def crps(samples: Any, y: Any, *, fair: bool = False) -> Any:
    """Continuous ranked probability score of a sample: ``mean |s - y| - mean |s - s'| / 2``, O(L log L) per row.

    ``fair=True`` averages the second term over the ``L (L - 1)`` pairs of different draws, which makes the score of a finite
    sample unbiased for the distribution it comes from; else over all ``L^2``. The derivative of ``|x|`` at 0 is 0; of equal
    samples the earlier counts as the smaller.

    Args:
        samples: ``[B, L]``, L at least 1 (2 if fair), in any order; y: ``[B]``. In the unit of y.

    Returns:
        ``[B]``, lower is better: a tensor for tensors (with gradients; fp32 for 16-bit inputs), else a NumPy array.

    Raises:
        TypeError, ValueError: shapes that do not match; NaN (the first row that has one), which in training, in compiled code and
            on a GPU stays in its row instead.

    Gradients: samples, y.

    Source: Gneiting and Raftery, JASA 102 (2007), for the energy form; Ferro, QJRMS 140 (2014), for the fair one.

    Example:
        >>> crps([[0.0, 2.0]], [1.0])
        array([0.5])
    """
    s, t = score_tensors(samples=samples, y=y)
    fair = boolean("fair", fair)
    least = 2 if fair else 1
    if s.dim() != 2 or s.shape[1] < least:
        raise ValueError(f"samples: expected [B, L] with L at least {least}, got {list(s.shape)}")
    if t.shape != s.shape[:1]:
        raise ValueError(f"y: expected [B] = [{s.shape[0]}], got {list(t.shape)}")
    out = _OP(s, t, fair)
    reject_nan(out, samples=s, y=t)
    return out if isinstance(samples, Tensor) else out.numpy()


def _fake(samples: Tensor, grad_mask: int) -> tuple[Tensor, Tensor]:
    B, L = samples.shape
    return samples.new_empty(B), samples.new_empty((B if grad_mask else 0, L))


def _fake_backward(slopes: Tensor, grad_mask: int) -> tuple[Tensor, Tensor]:
    return empty_if(grad_mask & reference.SAMPLES, slopes), empty_if(grad_mask & reference.Y, slopes[:, 0])


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "crps",
    tensors=2,
    public=1,
    reference=reference.crps,
    reference_backward=reference.crps_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: (out[1],),  # slopes
    cuda=True,
)
