"""Ragged groups of values to take quantiles of, and what NumPy makes of them."""

import numpy as np

LEVELS = np.array([0.5, 0.0, 1.0, 0.025, 0.975, 0.5, 1 / 3, 0.9])  # unsorted, repeated, both ends
HOSTILE = [0, 1, 2, 3, 7, 8, 9, 31, 33, 127, 128, 129, 1023, 1024, 1025, 5000]


def ragged(rng, sizes, dtype=np.float64, kind="normal"):
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(offsets[-1])
    values = {
        "normal": lambda: rng.normal(size=n),
        "duplicates": lambda: rng.integers(-3, 4, n).astype(np.float64),
        "constant": lambda: np.full(n, -2.5),
        "zeros": lambda: np.where(rng.random(n) < 0.5, -0.0, 0.0),
        "denormal": lambda: rng.integers(-50, 50, n) * np.finfo(dtype).smallest_subnormal.astype(np.float64),
        "huge": lambda: rng.choice([-1, 1], n) * float(np.finfo(dtype).max) * rng.random(n),
        "infinite": lambda: rng.choice([-np.inf, np.inf, 0.0, 1.5, -4.0], n),
        "sorted": lambda: np.sort(rng.normal(size=n)),
        "descending": lambda: -np.sort(rng.normal(size=n)),
    }[kind]()
    return values.astype(dtype), offsets


def by_numpy(values, offsets, levels):
    """numpy.quantile of each group in fp64, rounded once; NaN for an empty group."""
    out = np.full((len(offsets) - 1, len(levels)), np.nan)
    for g in range(len(out)):
        if offsets[g] < offsets[g + 1]:
            out[g] = np.quantile(values[offsets[g] : offsets[g + 1]].astype(np.float64), levels)
    return out.astype(values.dtype)
