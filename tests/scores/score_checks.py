"""What the tests of the scores share."""

import numpy as np

import ordkernels

SIZES = (1, 7, 8, 9, 1023, 1025, 70_000)  # below, at and above a block of the compiled sums


def check_compiled(score, *args, **options):
    """A score's compiled kernel gives its reference's result, whatever the number of threads."""
    with ordkernels.use_backend("reference"):
        expected = score(*args, **options)
    one, two = (score(*args, **options, num_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, expected, rtol=1e-12, atol=1e-14)


def hostile(kind, n, rng):
    """(y, prediction): shapes of data that a radix sort can trip over."""
    y = rng.lognormal(2, 1, n)
    p = y * rng.lognormal(0, 0.7, n)
    if kind == "continuous":
        return y, p
    if kind == "float32":
        return y.astype(np.float32), p.astype(np.float32)
    if kind == "ties":
        return np.floor(y), np.floor(p / 4).astype(np.float32)
    if kind == "constant y":
        return np.full(n, 3.0), p
    if kind == "constant prediction":
        return y.astype(np.float32), np.full(n, -0.1, np.float32)
    if kind == "two values":
        return rng.integers(0, 2, n), rng.integers(0, 2, n).astype(np.float64) * 1e300
    if kind == "in order":
        return np.arange(n), np.arange(n) * 0.5
    if kind == "reversed":
        return np.arange(n, dtype=np.int32), -np.arange(n, dtype=np.float32)
    if kind == "zeros of both signs":
        return rng.integers(-1, 2, n), np.where(rng.random(n) < 0.5, 0.0, -0.0)
    if kind == "infinities":
        return rng.choice([-np.inf, -1e308, 5e-324, 0.0, np.inf], n), rng.choice([-np.inf, -1.0, np.inf], n).astype(np.float32)
    if kind == "64-bit integers":
        return rng.choice([2**53, 2**53 + 1, -(2**63), 2**63 - 1], n), rng.choice(np.array([0, 2**63, 2**64 - 1], np.uint64), n)
    if kind == "outlier":
        y[n // 2] = 1e300
        return y, np.where(np.arange(n) % 7 == 0, p, 1.0)
    raise ValueError(kind)


HOSTILE = (
    "continuous", "float32", "ties", "constant y", "constant prediction", "two values", "in order", "reversed", "zeros of both signs",
    "infinities", "64-bit integers", "outlier",
)  # fmt: skip
