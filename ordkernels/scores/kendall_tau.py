"""Kendall's rank correlation."""

import math
from typing import Any, Literal

import numpy as np

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import one_of
from ..reference import kendall_tau as reference
from ._inputs import columns

__all__ = ["kendall_tau"]

register_host("kendall_tau")


def kendall_tau(y: Any, prediction: Any, *, variant: Literal["a", "b", "c"] = "b", num_threads: int | None = None) -> float:
    """Kendall's tau: ``(C - D) / scale`` of concordant and discordant pairs, from exact counts, in O(n log n).

    The scale: ``"a"``: all pairs; ``"b"``: the root of the pairs of different y times those of different predictions; ``"c"``:
    ``n^2 (m - 1) / (2 m)``, with m the smaller number of distinct values. NaN where it is 0: for ``"b"`` and ``"c"``, a constant side.

    Args:
        y, prediction: ``[N]``, compared as they are. Infinities are values like any other.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN (how many, and the first).

    Source: Kendall, Biometrika 33 (1945), for "b"; Stuart, Biometrika 40 (1953), for "c"; Knight, JASA 61 (1966), for the method.

    Example:
        >>> kendall_tau([1, 2, 3], [1, 10, 100])
        1.0
        >>> round(kendall_tau([1, 2, 2, 3], [1, 2, 3, 3]), 12)
        0.8
    """
    c = compiled_host("kendall_tau")
    variant = one_of("variant", variant, ("a", "b", "c"))
    a, b = columns(y, prediction)
    if c is None:
        return reference.kendall_tau(a, b, variant)
    a, b = arrays.same_order(a), arrays.same_order(b)
    n, (concordant, tied, pairs, both) = len(a), c.xauc_counts(a, b, None, False, _threads(num_threads))
    difference = 2 * concordant + tied - pairs
    if variant == "a":
        scale: float = n * (n - 1) // 2
    elif variant == "b":
        scale = math.sqrt(pairs * (n * (n - 1) // 2 - tied - both))
    else:
        m = min(len(np.unique(a)), len(np.unique(b)))
        scale = n * n * (m - 1) / (2 * m)
    return difference / scale if scale else math.nan
