"""The definitions of the scores, in plain NumPy. Arguments are already checked: arrays of one length, without NaN."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "coverage", "cumulative_score", "divergences", "group_means", "histogram_jsd", "inversions", "lcc", "mae", "reference_pairs",
    "rmse", "srcc", "xauc_counts",
]  # fmt: skip

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def mae(y: Floats, prediction: Floats) -> float:
    return float(np.abs(y - prediction).mean())


def rmse(y: Floats, prediction: Floats) -> float:
    return float(np.sqrt(np.square(y - prediction).mean()))


def cumulative_score(y: Floats, prediction: Floats, theta: float) -> float:
    return float((np.abs(y - prediction) <= theta).mean())


def coverage(lower: Floats, upper: Floats, y: Floats) -> tuple[float, float]:
    return float(((lower <= y) & (y <= upper)).mean()), float((upper - lower).mean())


def lcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation; NaN where either side is constant."""
    a, b = y - y[0], prediction - prediction[0]  # a constant column is exactly 0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else math.nan


def srcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank."""
    return lcc(_mean_ranks(y), _mean_ranks(prediction))


def _mean_ranks(x: Floats) -> Floats:
    _, code, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[code]


# ------------------------------------------------------------------------------------------------------ pairs


def xauc_counts(
    y: NDArray[np.generic], prediction: NDArray[np.generic], weight: Floats | None, group: Ints | None
) -> tuple[float, float, float]:
    """(discordant, tied in the prediction, all) pairs with different y, in one group; a pair weighs w_i w_j. Knight's method.

    Sorted by (y, prediction), the discordant pairs are the inversions of the prediction; the tied ones are counted from runs.
    """
    at, label = _codes(group, y), _codes(group, prediction)
    order = np.lexsort((label, at))
    discordant = inversions(label[order], None if weight is None else weight[order])
    within = _pairs_in_runs(np.zeros_like(at) if group is None else np.unique(group, return_inverse=True)[1], weight)
    both = _pairs_in_runs(np.unique(at * (int(label.max()) + 1) + label, return_inverse=True)[1], weight)
    return discordant, _pairs_in_runs(label, weight) - both, within - _pairs_in_runs(at, weight)


def group_means(y: NDArray[np.generic], prediction: NDArray[np.generic], weight: Floats | None, group: Ints) -> tuple[int, float, float]:
    """Of the groups with a pair: how many, and the sums of their concordant and tied shares of pairs."""
    count, concordant, tied = 0, 0.0, 0.0
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        d, t, n = xauc_counts(y[rows], prediction[rows], None if weight is None else weight[rows], None)
        if n > 0:
            count, concordant, tied = count + 1, concordant + (n - t - d) / n, tied + t / n
    return count, concordant, tied


def reference_pairs(y: NDArray[np.generic], prediction: NDArray[np.generic]) -> int:
    """Stable sort by prediction, descending: pairs whose earlier label is strictly greater."""
    label, at = (np.unique(x, return_inverse=True)[1].astype(np.int64) for x in (y, prediction))
    return int(inversions(label[np.argsort(-at, kind="stable")]))


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
    w = weight
    position = np.arange(n)
    total: float = 0
    for bit in range(max(n - 1, 0).bit_length() - 1, -1, -1):
        one = (rank >> bit) & 1
        start = (rank >> (bit + 1)) << (bit + 1)  # of the block: ranks are 0..n-1, so blocks lie where their ranks do
        ones = np.concatenate(([0], np.cumsum(one)))
        before = ones[position] - ones[start]  # ones of the block that came earlier
        if w is None:
            total += int(before[one == 0].sum())
        else:
            heavy = np.concatenate(([0.0], np.cumsum(one * w)))
            total += float((w * (heavy[position] - heavy[start]))[one == 0].sum())
        to = np.where(one == 1, start + (1 << bit) + before, position - before)
        moved = np.empty_like(rank)
        moved[to] = rank
        rank = moved
        if w is not None:
            lifted = np.empty_like(w)
            lifted[to] = w
            w = lifted
    return total


# ----------------------------------------------------------------------------------------------- distributions


def histogram_jsd(y: NDArray[np.generic], prediction: NDArray[np.generic], group: Ints, edges: Floats, base: float) -> float:
    """Mean over groups of the Jensen-Shannon divergence of the two histograms; M bins, the first and the last open."""
    g = np.unique(group, return_inverse=True)[1]
    G, M = int(g.max()) + 1, len(edges) - 1
    p, q = (
        np.bincount(g * M + np.searchsorted(edges[1:-1], x, side="right"), minlength=G * M).reshape(G, M).astype(np.float64)
        for x in (y, prediction)
    )  # [G, M] counts
    return float(divergences(p, q).mean() / math.log(base))


def divergences(p: Floats, q: Floats) -> Floats:
    """Counts [G, M], as many of each in a group -> [G] Jensen-Shannon divergences in nats."""
    n = p.sum(1, keepdims=True)
    p, q = p / n, q / n
    middle = np.where(p + q > 0, (p + q) / 2, 1)
    terms = (x * np.log(np.where(x > 0, x, 1) / np.where(x > 0, middle, 1)) for x in (p, q))
    return sum(t.sum(1) for t in terms) / 2  # type: ignore[return-value]
