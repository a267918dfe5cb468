"""Means, sums of squares and products of two columns that come in chunks, merged without cancellation or overflow.

A state [9] is: the means of y and p, what rounding took from them, the sums of squares and products about them (yy, pp, yp), and two
exponents. All are of y and p times 2^-exponent, which is 0 unless squares could overflow or vanish.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays
from ..reference import lcc as reference
from ._inputs import float64

__all__ = ["EMPTY", "chunk_moments", "merged_moments"]

Floats = NDArray[np.float64]

EMPTY = np.zeros(9)
_ORDINARY = 390  # exponents of 2 up to which the square of a constant column's distance from another needs no scaling
_EXPONENTS = ((0,), (1,), (0,), (1,), (0, 0), (1, 1), (0, 1))  # of which columns each entry of a state is a product


def chunk_moments(c: Any, first: tuple[Any, Any], columns: list[NDArray[Any]], threads: int) -> Floats:
    """Of at least one row, the `first` in its dtypes, and of columns that may be shifted; `c` is `_host`, or None for the reference."""
    *offsets, yy, pp, yp, y_exponent, p_exponent = c.moments(*columns, threads) if c else reference.moments(*float64(*columns))
    y_mean, y_rest, y_exponent = _mean(first[0], offsets[0], yy, y_exponent)
    p_mean, p_rest, p_exponent = _mean(first[1], offsets[1], pp, p_exponent)
    return np.array([y_mean, p_mean, y_rest, p_rest, yy, pp, yp, y_exponent, p_exponent], np.float64)


def merged_moments(a: Floats, n: int, b: Floats, m: int) -> Floats:
    """Of n and of m rows, by the formula of Chan, Golub and LeVeque."""
    exponents = [max((int(x[7 + i]) for x in (a, b) if x[i] or x[4 + i]), default=0) for i in (0, 1)]
    a, b = (_scaled(x, exponents) for x in (a, b))
    share, weight = m / (n + m), n * m / (n + m)
    u, v = ((b[i] - a[i]) + (b[2 + i] - a[2 + i]) for i in (0, 1))
    (y_mean, y_rest), (p_mean, p_rest) = _two_sum(a[0], u * share, a[2]), _two_sum(a[1], v * share, a[3])
    yy, pp, yp = a[4:7] + b[4:7] + np.array([u * u, v * v, u * v]) * weight
    return np.array([y_mean, p_mean, y_rest, p_rest, yy, pp, yp, *exponents], np.float64)


def _mean(first: Any, offset: float, squares: float, exponent: int) -> tuple[float, float, int]:
    """(first + offset 2^exponent) 2^-exponent, as a float and what that lacks, and the exponent; `first` is of any dtype."""
    high = float(first)
    if not squares and abs(e := math.frexp(high)[1]) > _ORDINARY:  # of a constant column any exponent will do
        exponent = e
    low = float(np.longdouble(first) - np.longdouble(high)) if arrays.is_beyond_fp64(np.asarray(first)) else 0.0
    return *_two_sum(math.ldexp(high, -exponent), offset, math.ldexp(low, -exponent)), exponent


def _two_sum(a: float, b: float, rest: float) -> tuple[float, float]:
    """a + b + rest as a float and what that lacks (Knuth)."""
    s = a + b
    rounded = s - a
    low = (a - (s - rounded)) + (b - rounded) + rest
    high = s + low
    return high, low - (high - s)


def _scaled(x: Floats, exponents: list[int]) -> Floats:
    """A state of these exponents, which are no less than its own unless it is of zeros."""
    shifts = [min(int(x[7 + i]) - e, 0) for i, e in enumerate(exponents)]
    return np.ldexp(x[:7], [sum(shifts[i] for i in columns) for columns in _EXPONENTS]) if any(shifts) else x
