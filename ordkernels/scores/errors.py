"""Errors of point predictions: MAE, RMSE, cumulative score, linear correlation, and MAE by range of the truth."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import real
from ..reference import errors as reference
from ._inputs import finite_columns, float64

__all__ = ["IntervalErrors", "correlation", "cumulative_score", "lcc", "mae", "mae_by_interval", "rmse"]

register_host("cumulative_score", "lcc", "mae", "rmse")


def mae(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Mean absolute error ``mean |y - prediction|``, in the unit of y.

    Args:
        y: labels ``[N]``.
        prediction: ``[N]``, in the unit of y.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN or infinities (how many, and the first).

    Example:
        >>> mae([1.0, 4.0], [2.0, 1.0])
        2.0
    """
    c, (a, b) = compiled_host("mae"), finite_columns(y, prediction)
    return c.errors(a, b, 0.0, _threads(num_threads))[0] / len(a) if c else reference.mae(*float64(a, b))


def rmse(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Root of the mean squared error ``sqrt(mean (y - prediction)^2)``, in the unit of y.

    Args:
        y, prediction, num_threads: as for `mae`.

    Raises:
        TypeError, ValueError: as `mae`.

    Example:
        >>> rmse([1.0, 4.0], [2.0, 11.0])
        5.0
    """
    c, (a, b) = compiled_host("rmse"), finite_columns(y, prediction)
    return math.sqrt(c.errors(a, b, 0.0, _threads(num_threads))[1] / len(a)) if c else reference.rmse(*float64(a, b))


def cumulative_score(y: Any, prediction: Any, theta: float, *, num_threads: int | None = None) -> float:
    """CS@theta: the share of rows with ``|y - prediction| <= theta``.

    Args:
        y, prediction, num_threads: as for `mae`.
        theta: at least 0, in the unit of y.

    Raises:
        TypeError, ValueError: as `mae`; a negative or NaN theta.

    Example:
        >>> cumulative_score([20, 30, 40], [22, 36, 40], theta=5)
        0.6666666666666666
    """
    c, t = compiled_host("cumulative_score"), real("theta", theta, least=0, finite=False)
    a, b = finite_columns(y, prediction)
    if c is None:
        a, b = float64(a, b)
        return reference.cumulative_score(a, b, t)
    return c.errors(a, b, t, _threads(num_threads))[2] / len(a)


def lcc(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Pearson's linear correlation; NaN where either side is constant.

    Args:
        y, prediction, num_threads: as for `mae`.

    Raises:
        TypeError, ValueError: as `mae`.

    Example:
        >>> round(lcc([1, 2, 3], [2, 4, 6]), 12)
        1.0
    """
    c, (a, b) = compiled_host("lcc"), finite_columns(y, prediction)
    return correlation(*c.moments(a, b, _threads(num_threads))[3:]) if c else reference.lcc(*float64(a, b))


def correlation(yy: float, pp: float, yp: float) -> float:
    """From the sums of squares and products about the means; NaN where either column is constant."""
    scale = math.sqrt(yy) * math.sqrt(pp)
    return max(-1.0, min(1.0, yp / scale)) if scale > 0 else math.nan


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
    a, b = float64(*finite_columns(y, prediction))
    e = arrays.edges("edges", edges)
    interval = np.searchsorted(e[1:-1], a, side="right")
    rows = np.bincount(interval, minlength=len(e) - 1)
    total = np.bincount(interval, weights=np.abs(a - b), minlength=len(e) - 1)
    return IntervalErrors(np.divide(total, rows, out=np.full(len(rows), np.nan), where=rows > 0), rows.astype(np.int64))
