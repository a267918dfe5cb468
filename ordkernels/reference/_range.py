"""Columns of any magnitude: scaled by powers of 2, which rounds nothing, so that squares neither overflow nor underflow."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["binned_sums", "centred", "difference", "error_sums", "exponent", "times_power_of_2"]

Floats = NDArray[np.float64]


def exponent(x: Floats) -> int:
    """The e for which the largest magnitude is below 2^e, and at least half of that; 0 for zeros."""
    return int(np.frexp(np.abs(x).max(initial=0.0))[1])


def difference(a: Floats, b: Floats) -> tuple[Floats, int]:
    """(d, e): a - b = d 2^e, d up to 1; also where a - b overflows."""
    with np.errstate(over="ignore"):
        d, halved = a - b, 0
    if not np.isfinite(d).all():
        d, halved = a / 2 - b / 2, 1
    e = exponent(d)
    return np.ldexp(d, -e), e + halved


def error_sums(y: Floats, prediction: Floats) -> tuple[tuple[float, int], tuple[float, int]]:
    """The sums of |y - prediction| and of its square, each as (value, exponent of 2)."""
    d, e = difference(y, prediction)
    return (float(np.abs(d).sum()), e), (float((d * d).sum()), 2 * e)


def binned_sums(code: NDArray[np.int64], x: Floats, bins: int) -> tuple[Floats, NDArray[np.int64]]:
    """Sums of x by code, [bins], and for each the exponent of the power of 2 that it is to be multiplied by: no sum overflows."""
    largest = np.zeros(bins)
    np.maximum.at(largest, code, np.abs(x))
    exponents = np.frexp(largest)[1].astype(np.int64)
    return np.bincount(code, weights=np.ldexp(x, -exponents[code]), minlength=bins).astype(np.float64), exponents


def centred(x: Floats) -> Floats:
    """x without its mean, scaled to magnitudes up to 1; a constant column is exactly 0."""
    x = np.ldexp(x, -exponent(x))
    x = x - x[0]
    return np.asarray(x - x.mean())


def times_power_of_2(x: float, exponent: int) -> float:
    """x 2^exponent, infinite where it overflows."""
    try:
        return math.ldexp(x, exponent)
    except OverflowError:
        return math.copysign(math.inf, x)
