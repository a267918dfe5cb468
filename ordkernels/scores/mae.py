"""Mean absolute error."""

from typing import Any

from .._backend import compiled_host, register_host
from .._validation.numbers import num_threads as _threads
from ..reference import mae as reference
from ..reference._range import times_power_of_2
from ._inputs import finite_columns, float64

__all__ = ["mae"]

register_host("mae")


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
    c, threads, (a, b) = compiled_host("mae"), _threads(num_threads), finite_columns(y, prediction, rounded="difference")
    if c is None:
        return reference.mae(*float64(a, b))
    total, exponent = c.errors(a, b, 0.0, threads)[0]
    return times_power_of_2(total / len(a), exponent)
