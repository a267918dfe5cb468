"""Mean absolute error by range of the truth."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays
from ..reference._range import binned_sums
from ._inputs import finite_columns, float64

__all__ = ["IntervalErrors", "mae_by_interval"]


class IntervalErrors(NamedTuple):
    """``mae [M]``, NaN where there are no rows, and ``rows [M]``."""

    mae: NDArray[np.float64]
    rows: NDArray[np.int64]


def mae_by_interval(y: Any, prediction: Any, edges: Any) -> IntervalErrors:
    """Mean absolute error of the rows whose y is in each interval: where, along a long-tailed target, a model is good.

    Weighted by ``rows``, the intervals' errors average to `mae`.

    Args:
        y, prediction: as for `mae`.
        edges: ``[M+1]``, ascending: M intervals of y, closed on the left; the first and the last are open, as in `histogram_jsd`,
            so every row is in one.

    Returns:
        ``IntervalErrors(mae [M], rows [M])``.

    Raises:
        TypeError, ValueError: as `mae`; edges that do not ascend, or fewer than 2.

    Source: the breakdown of GR (arXiv:2412.20211), figure 5(a).

    Example:
        >>> mae_by_interval([0.0, 1.0, 5.0], [1.0, 1.0, 2.0], edges=[0, 2, 4, 9])
        IntervalErrors(mae=array([0.5, nan, 3. ]), rows=array([2, 0, 1]))
    """
    e, labels = arrays.edges("edges", edges), arrays.numbers("y", y)
    a, b = float64(*finite_columns(labels, prediction, rounded="difference"))
    interval = np.searchsorted(e[1:-1], arrays.binnable(labels)[0], side="right")
    rows = np.bincount(interval, minlength=len(e) - 1)
    with np.errstate(over="ignore"):
        d = np.abs(a - b)
        is_halved = np.bincount(interval[np.isinf(d)], minlength=len(rows)) > 0
        if is_halved.any():
            d = np.where(is_halved[interval], np.abs(a / 2 - b / 2), d)
        total, exponents = binned_sums(interval, d, len(rows))
        mean = np.ldexp(np.divide(total, rows, out=np.full(len(rows), np.nan), where=rows > 0), exponents + is_halved)
    return IntervalErrors(mean, rows.astype(np.int64))
