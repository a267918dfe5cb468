"""Spearman's rank correlation."""

from typing import Any

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from ..reference import srcc as reference
from ._inputs import columns

__all__ = ["srcc"]

register_host("srcc")


def srcc(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where either side is constant.

    Args:
        y, prediction: ``[N]``, compared as they are. Infinities are values like any other.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN (how many, and the first).

    Example:
        >>> round(srcc([1, 2, 3], [1, 10, 100]), 12)
        1.0
    """
    c, (a, b) = compiled_host("srcc"), columns(y, prediction)
    return c.srcc(arrays.same_order(a), arrays.same_order(b), _threads(num_threads)) if c else reference.srcc(a, b)
