"""Ragged groups of events, and their quantiles by NumPy."""

import numpy as np

Array = np.ndarray
L = 20
LEVELS = (np.arange(L) + 0.5) / L


def grouped(N: int, G: int, seed: int = 0) -> tuple[Array, Array]:
    """values [N] fp32 and offsets [G+1]; group sizes are skewed (log-normal shares), and every group has an event."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 1, G)
    sizes = 1 + rng.multinomial(N - G, share / share.sum())
    return rng.lognormal(2, 1, N).astype(np.float32), np.concatenate(([0], np.cumsum(sizes)))


def quantiles(x: Array) -> Array:
    """numpy.quantile, without what it spends on checks; NaN for no values."""
    if not len(x):
        return np.full(L, np.nan)
    ordered, at = np.sort(x.astype(np.float64)), (len(x) - 1) * LEVELS
    low = at.astype(np.int64)
    a, b = ordered[low], ordered[np.minimum(low + 1, len(x) - 1)]
    return a + (b - a) * (at - low)
