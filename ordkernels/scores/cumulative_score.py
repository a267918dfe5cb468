"""Cumulative score: the share of rows within a tolerance."""

from typing import Any

from .._backend import compiled_host, register_host
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import real
from ..reference import cumulative_score as reference
from ._inputs import finite_columns, float64

__all__ = ["cumulative_score"]

register_host("cumulative_score")


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
    a, b = finite_columns(y, prediction, rounded="away from 0")
    if c is None:
        a, b = float64(a, b)
        return reference.cumulative_score(a, b, t)
    return c.errors(a, b, t, _threads(num_threads))[2] / len(a)
