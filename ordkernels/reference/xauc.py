"""The definition of XAUC's counts of pairs, in plain NumPy. Arguments are already checked: arrays of one length, without NaN."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["group_means", "inversions", "reference_pairs", "xauc_counts"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = TypeVar("Array", Floats, Ints)


def xauc_counts(
    y: NDArray[np.generic], prediction: NDArray[np.generic], weight: Floats | None, group: Ints | None
) -> tuple[float, float, float]:
    """(discordant, tied in the prediction, all) pairs with different y, in one group; a pair weighs w_i w_j. Knight's method.

    Sorted by (y, prediction), the discordant pairs are the inversions of the prediction; the tied ones are counted from runs.
    """
    y_code, p_code = _codes(group, y), _codes(group, prediction)
    order = np.lexsort((p_code, y_code))
    discordant = inversions(p_code[order], None if weight is None else weight[order])
    in_group = _pairs_in_runs(np.zeros_like(y_code) if group is None else np.unique(group, return_inverse=True)[1], weight)
    tied_in_both = _pairs_in_runs(np.unique(y_code * (int(p_code.max()) + 1) + p_code, return_inverse=True)[1], weight)
    return discordant, _pairs_in_runs(p_code, weight) - tied_in_both, in_group - _pairs_in_runs(y_code, weight)


def group_means(y: NDArray[np.generic], prediction: NDArray[np.generic], weight: Floats | None, group: Ints) -> tuple[int, float, float]:
    """How many groups have a pair, and the sums over them of the concordant and the tied share of their pairs."""
    count, concordant, tied = 0, 0.0, 0.0
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        d, t, n = xauc_counts(y[rows], prediction[rows], None if weight is None else weight[rows], None)
        if n > 0:
            count, concordant, tied = count + 1, concordant + (n - t - d) / n, tied + t / n
    return count, concordant, tied


def reference_pairs(y: NDArray[np.generic], prediction: NDArray[np.generic]) -> int:
    """Stable sort by prediction, descending: pairs whose earlier label is strictly greater."""
    y_code, p_code = (np.unique(x, return_inverse=True)[1].astype(np.int64) for x in (y, prediction))
    return int(inversions(y_code[np.argsort(-p_code, kind="stable")]))


def _codes(group: Ints | None, x: NDArray[np.generic]) -> Ints:
    """Dense ranks of (group, x): equal where both are, later groups above all of the earlier."""
    code = np.unique(x, return_inverse=True)[1].astype(np.int64)
    if group is None:
        return code
    g = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return np.unique(g * (int(code.max()) + 1) + code, return_inverse=True)[1].astype(np.int64)


def _pairs_in_runs(code: Ints, weight: Floats | None) -> float:
    """Pairs of rows with the same code: sum over codes of n (n - 1) / 2, or of ((sum w)^2 - sum w^2) / 2."""
    if weight is None:
        n = np.bincount(code)
        return int((n * (n - 1) // 2).sum())
    total, squares = np.bincount(code, weight), np.bincount(code, weight * weight)
    return float(np.maximum(total * total - squares, 0).sum() / 2)


def inversions(code: Ints, weight: Floats | None = None) -> float:
    """Pairs i < j with code_i > code_j, or the sum of their w_i w_j: O(n log n), one pass per bit of the rank.

    The pass for bit b sees the ranks ordered by their bits above b, otherwise as they came. A pair whose ranks differ first in
    bit b is an inversion iff its 1 comes before its 0.
    """
    n = len(code)
    rank = np.empty(n, np.int64)
    rank[np.argsort(code, kind="stable")] = np.arange(n)  # a permutation; ties keep their order, so none is an inversion
    w, position = weight, np.arange(n)
    total: float = 0
    for bit in range(max(n - 1, 0).bit_length() - 1, -1, -1):
        one = (rank >> bit) & 1
        start = (rank >> (bit + 1)) << (bit + 1)  # of the block: ranks are 0..n-1, so blocks lie where their ranks do
        ones = np.concatenate(([0], np.cumsum(one)))
        ones_before = ones[position] - ones[start]  # in the same block
        if w is None:
            total += int(ones_before[one == 0].sum())
        else:
            weight_of_ones = np.concatenate(([0.0], np.cumsum(one * w)))
            total += float((w * (weight_of_ones[position] - weight_of_ones[start]))[one == 0].sum())
        to = np.where(one == 1, start + (1 << bit) + ones_before, position - ones_before)
        rank = _scatter(rank, to)
        w = None if w is None else _scatter(w, to)
    return total


def _scatter(x: Array, to: Ints) -> Array:
    out = np.empty_like(x)
    out[to] = x
    return out
