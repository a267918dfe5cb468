"""Pearson's linear correlation."""

from typing import Any

from .._backend import compiled_host, register_host
from .._validation.numbers import num_threads as _threads
from ..reference import lcc as reference
from ..reference.lcc import correlation
from ._inputs import finite_columns, float64

__all__ = ["correlation", "lcc"]

register_host("lcc")


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
    c, threads, (a, b) = compiled_host("lcc"), _threads(num_threads), finite_columns(y, prediction, rounded="shifted")
    return correlation(*c.moments(a, b, threads)[2:5]) if c else reference.lcc(*float64(a, b))
