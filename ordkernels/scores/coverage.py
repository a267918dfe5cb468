"""Coverage of prediction intervals."""

from typing import Any

from .._backend import compiled_host, register_host
from .._validation.numbers import num_threads as _threads
from ..reference import coverage as reference
from ..reference._range import times_power_of_2
from ._inputs import float64, intervals

__all__ = ["coverage"]

register_host("coverage")


def coverage(lower: Any, upper: Any, y: Any, *, num_threads: int | None = None) -> tuple[float, float]:
    """The share of rows with ``lower <= y <= upper``, and the intervals' mean width.

    Args:
        lower, upper: ends ``[N]`` of the intervals, in the unit of y.
        y: labels ``[N]``.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Returns:
        ``(share, mean width)``.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN, infinite ends; a lower end above its upper end.

    Example:
        >>> coverage([0, 0], [1, 3], [2, 3])
        (0.5, 2.0)
    """
    c, (a, b, t) = compiled_host("coverage"), intervals(lower, upper, y)
    if c is None:
        return reference.coverage(*float64(a, b, t))
    inside, (width, exponent), _ = c.coverage(a, b, t, _threads(num_threads))
    return inside / len(a), times_power_of_2(width / len(a), exponent)
