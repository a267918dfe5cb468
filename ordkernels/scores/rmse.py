"""Root of the mean squared error."""

import math
from typing import Any

from .._backend import compiled_host, register_host
from .._validation.numbers import num_threads as _threads
from ..reference import rmse as reference
from ..reference._range import times_power_of_2
from ._inputs import finite_columns, float64

__all__ = ["rmse"]

register_host("rmse")


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
    c, threads, (a, b) = compiled_host("rmse"), _threads(num_threads), finite_columns(y, prediction, rounded="difference")
    if c is None:
        return reference.rmse(*float64(a, b))
    total, exponent = c.errors(a, b, 0.0, threads)[1]
    return times_power_of_2(math.sqrt(total / len(a)), exponent // 2)
