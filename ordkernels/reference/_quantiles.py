"""What the definitions of the data-side quantiles share, in plain NumPy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def quantile_row(values: Floats, levels: Floats) -> Floats:
    """values [n] -> [L]: linear interpolation in fp64 at position (n - 1) level of the sorted values; NaN if n = 0."""
    if not values.size:
        return np.full(levels.shape, np.nan)
    position = (values.size - 1) * levels
    low = position.astype(np.int64)
    t = position - low
    s = np.sort(values).astype(np.float64)
    a, b = s[low], s[np.minimum(low + 1, values.size - 1)]
    with np.errstate(invalid="ignore", over="ignore"):
        gap = b - a
        inside = np.where(t < 0.5, a + gap * t, b - gap * (1 - t))  # as numpy.quantile: never outside [a, b]
        unbounded = a * (1 - t) + b * t  # an infinity wins against a finite neighbour
    return np.where((a == b) | (t == 0), a, np.where(np.isfinite(gap), inside, unbounded))
