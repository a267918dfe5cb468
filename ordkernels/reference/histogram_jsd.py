"""The definition of the histogram divergence, in plain NumPy. Arguments are already checked."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["divergences", "histogram_jsd", "mean_divergence"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def histogram_jsd(y: NDArray[np.generic], prediction: NDArray[np.generic], group: Ints, edges: Floats, base: float) -> float:
    """Mean over groups of the Jensen-Shannon divergence of the two histograms; M bins, the first and the last open."""
    g = np.unique(group, return_inverse=True)[1]
    G, M = int(g.max()) + 1, len(edges) - 1
    p, q = (
        np.bincount(g * M + np.searchsorted(edges[1:-1], x, side="right"), minlength=G * M).reshape(G, M).astype(np.float64)
        for x in (y, prediction)
    )  # [G, M] counts
    return mean_divergence(float(divergences(p, q).sum()), G, base)


def mean_divergence(total: float, groups: int, base: float) -> float:
    """Of a sum over groups, in nats: within its bounds 0 and log 2, whatever the rounding."""
    return min(max(total / groups, 0.0), math.log(2)) / math.log(base)


def divergences(p: Floats, q: Floats) -> Floats:
    """Counts [G, M] of each side, as many in a group -> [G] Jensen-Shannon divergences in nats."""
    n = p.sum(1, keepdims=True)
    p, q = p / n, q / n
    middle = np.where(p + q > 0, (p + q) / 2, 1)
    terms = (x * np.log(np.where(x > 0, x, 1) / np.where(x > 0, middle, 1)) for x in (p, q))
    return sum(t.sum(1) for t in terms) / 2  # type: ignore[return-value]
