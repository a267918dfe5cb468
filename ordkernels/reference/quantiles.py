"""The definition of the data-side quantiles, in plain NumPy. Arguments are already checked; num_threads is not used."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["history_quantiles", "leave_one_out_quantiles", "segment_quantiles"]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def _row(values: Floats, levels: Floats) -> Floats:
    """values [n] -> [L]: linear interpolation in fp64 at position (n - 1) level of the sorted values; NaN if n = 0."""
    if not values.size:
        return np.full(levels.shape, np.nan)
    position = (values.size - 1) * levels
    lo = position.astype(np.int64)
    t = position - lo
    s = np.sort(values).astype(np.float64)
    a, b = s[lo], s[np.minimum(lo + 1, values.size - 1)]
    with np.errstate(invalid="ignore", over="ignore"):
        gap = b - a
        inside = np.where(t < 0.5, a + gap * t, b - gap * (1 - t))  # as numpy.quantile: never outside [a, b]
        unbounded = a * (1 - t) + b * t  # an infinity wins against a finite neighbour
    return np.where((a == b) | (t == 0), a, np.where(np.isfinite(gap), inside, unbounded))


def segment_quantiles(values: Floats, offsets: Ints, levels: Floats, num_threads: int = 1) -> Floats:
    """values [N], offsets [G+1], levels [L] -> [G, L]."""
    out = np.empty((len(offsets) - 1, len(levels)), values.dtype)
    for g in range(len(out)):
        out[g] = _row(values[offsets[g] : offsets[g + 1]], levels)
    return out


def leave_one_out_quantiles(values: Floats, offsets: Ints, levels: Floats, num_threads: int = 1) -> Floats:
    """values [N], offsets [G+1], levels [L] -> [N, L]."""
    out = np.empty((len(values), len(levels)), values.dtype)
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            out[i] = _row(np.delete(values[begin:end], i - begin), levels)
    return out


def history_quantiles(
    values: Floats, group: Ints, time: NDArray[np.generic], levels: Floats, min_events: int, num_threads: int = 1
) -> Floats:
    """values, group, time [N], levels [L] -> [N, L]."""
    out = np.full((len(values), len(levels)), np.nan, values.dtype)
    for i in range(len(values)):
        past = values[(group == group[i]) & (time < time[i])]
        if past.size >= min_events:
            out[i] = _row(past, levels)
    return out
