"""Pearson's linear correlation."""

import math
from typing import Any

from .._backend import compiled_host, register_host
from .._validation.numbers import num_threads as _threads
from ..reference import lcc as reference
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
    c, (a, b) = compiled_host("lcc"), finite_columns(y, prediction)
    return correlation(*c.moments(a, b, _threads(num_threads))[3:]) if c else reference.lcc(*float64(a, b))


def correlation(yy: float, pp: float, yp: float) -> float:
    """From the sums of squares and products about the means; NaN where either column is constant."""
    scale = math.sqrt(yy) * math.sqrt(pp)
    return max(-1.0, min(1.0, yp / scale)) if scale > 0 else math.nan
