"""The definition of XAUC's counts of pairs, in plain NumPy. Arguments are already checked: arrays of one length, without NaN.

Weights are float64, or Python's integers in an array of objects, which make every sum exact. Nothing is subtracted: a sum of products
is as accurate as its terms, and 0 where there is no pair.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["group_means", "inversions", "reference_pairs", "xauc_counts"]

Array = NDArray[Any]
Ints = NDArray[np.int64]


def xauc_counts(y: Array, prediction: Array, weight: Array | None, group: Ints | None) -> tuple[Any, Any, Any, Any]:
    """(concordant, tied in the prediction, all) pairs with different y, in one group, and pairs tied in both; a pair counts w_i w_j.
    Knight's method.

    Sorted by (prediction, y), the discordant pairs are the inversions of y; with the predictions reversed, the concordant ones. The
    tied pairs are the inversions among rows of one prediction whose y fall.
    """
    w = np.ones(len(y), np.int64) if weight is None else weight
    g = np.zeros(len(y), np.int64) if group is None else _codes(group)
    a, b = _codes(g, _codes(y)), _codes(g, _codes(prediction))

    def count(code: Ints, *keys: Ints) -> Any:
        order = np.lexsort(keys[::-1])
        return inversions(code[order], w[order])

    discordant, concordant, tied = count(a, b, a), count(a, g, -b, a), count(_codes(b, a), b, -a)
    rows, both = np.arange(len(y)), _codes(b, a)
    tied_both = count(_codes(both, -rows), both, rows)
    return concordant, tied, concordant + discordant + tied, tied_both


def group_means(y: Array, prediction: Array, weight: Array | None, group: Ints) -> tuple[int, float, float]:
    """How many groups have a pair, and the sums over them of the concordant and the tied share of their pairs."""
    count, concordant, tied = 0, 0.0, 0.0
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        c, t, n, _ = xauc_counts(y[rows], prediction[rows], None if weight is None else weight[rows], None)
        if n > 0:
            count, concordant, tied = count + 1, concordant + c / n, tied + t / n
    return count, concordant, tied


def reference_pairs(y: Array, prediction: Array) -> int:
    """Stable sort by prediction, descending: pairs whose earlier label is strictly greater."""
    return int(inversions(_codes(y)[np.argsort(-_codes(prediction), kind="stable")]))


def _codes(*keys: Array) -> Ints:
    """Dense ranks of (key, key, ...), in that order."""
    code = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        rank = np.unique(key, return_inverse=True)[1].astype(np.int64)
        code = np.unique(code * (int(rank.max()) + 1) + rank, return_inverse=True)[1].astype(np.int64)
    return code


def inversions(code: Ints, weight: Array | None = None) -> Any:
    """Pairs i < j with code_i > code_j, or the sum of their w_i w_j: O(n log n), one pass per bit of the rank.

    The pass for bit b sees the ranks ordered by their bits above b, otherwise as they came: blocks of 2^(b + 1), for the ranks are
    0, 1, ... A pair whose ranks differ first in bit b is an inversion iff its 1 comes before its 0.
    """
    n = len(code)
    bits = max(n - 1, 0).bit_length()
    rank: Ints = np.arange(1 << bits)
    rank[np.argsort(code, kind="stable")] = np.arange(n)  # a permutation; ties keep their order, so none is an inversion
    w: Array = np.zeros(1 << bits, np.int64 if weight is None else weight.dtype)
    w[:n] = 1 if weight is None else weight
    total: Any = 0
    for bit in range(bits - 1, -1, -1):
        rank, w = rank.reshape(-1, 2 << bit), w.reshape(-1, 2 << bit)
        one = (rank >> bit) & 1
        before = np.cumsum(one * w, axis=1)  # of the ones up to here: before here, where this is a zero
        total += ((1 - one) * w * before).sum()
        order = np.argsort(one, axis=1, kind="stable")
        rank, w = np.take_along_axis(rank, order, 1), np.take_along_axis(w, order, 1)
    return total.item() if isinstance(total, np.generic) else total
