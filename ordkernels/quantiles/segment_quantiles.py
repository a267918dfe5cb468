"""Quantiles of every group of a ragged array."""

from typing import Any

from numpy.typing import ArrayLike

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from ..reference import segment_quantiles as reference
from ._inputs import as_offsets, as_values, restore

__all__ = ["segment_quantiles"]

register_host("segment_quantiles")


def segment_quantiles(values: ArrayLike, offsets: ArrayLike, levels: ArrayLike, *, num_threads: int | None = None) -> Any:
    """Quantiles of every group of a ragged array, linearly interpolated as by numpy.quantile.

    ``out[g, l]`` is the value at position ``(n - 1) levels[l]`` of the n sorted ``values[offsets[g]:offsets[g + 1]]``.

    Args:
        values: ``[N]``, group after group. float32 and float64 keep their dtype (so do float16 and bfloat16, computed
            in float32), integers become float64. Infinities are values like any other; only strictly between -inf
            and inf there is no number, and the result is NaN.
        offsets: ``[G+1]`` integers, ascending from 0 to N: where each group begins, and N.
        levels: ``[L]`` in [0, 1], in any order.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core this process may use. It changes no result.

    Returns:
        ``[G, L]`` in the unit of values; NaN for an empty group. Workspace: under 1 MB a thread, and three times the
        values of its longest group where that has more than 1024.

    Raises:
        TypeError: dtypes that are not numbers, or not integers for offsets.
        ValueError: wrong shapes, levels outside [0, 1], offsets that do not ascend from 0 to N, NaN among the values.

    Source: FlowTime (arXiv:2606.01352), the pattern encoding of users and items.

    Example:
        >>> segment_quantiles([3.0, 1.0, 2.0, 7.0], [0, 3, 3, 4], [0.25, 0.5])
        array([[1.5, 2. ],
               [nan, nan],
               [7. , 7. ]])
    """
    kernels = compiled_host("segment_quantiles") or reference
    x = as_values(values)
    out = kernels.segment_quantiles(x, as_offsets(offsets, x.size), arrays.levels("levels", levels), _threads(num_threads))
    return restore(values, out)
