"""What the scores share: their columns as checked arrays."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays


def columns(a: Any, b: Any, *, names: tuple[str, str] = ("y", "prediction"), nan: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two vectors of the same length, of at least one row; without NaN unless `nan`."""
    first = arrays.numbers(names[0], a, nan=nan)
    if not len(first):
        raise ValueError(f"{names[0]}: expected at least one row, got none")
    return first, arrays.numbers(names[1], b, length=len(first), other=names[0], nan=nan)


def finite_columns(y: Any, prediction: Any, *, differences: bool = False, shifted: bool = False) -> list[NDArray[Any]]:
    """y and prediction in one dtype, float32 or float64.

    Whole numbers that fp64 would round come, with `differences`, as y - prediction and 0, and with `shifted` without their first.
    """
    a, b = columns(y, prediction)
    arrays.reject_infinite("y", a)
    arrays.reject_infinite("prediction", b)
    if (differences or shifted) and (arrays.is_beyond_fp64(a) or arrays.is_beyond_fp64(b)):
        u, v = a.astype(np.longdouble), b.astype(np.longdouble)
        return float64(u - v, np.zeros(len(u))) if differences else float64(u - u[0], v - v[0])
    return arrays.common_float(a, b)


def finite_chunk(y: Any, prediction: Any, *, differences: bool = False) -> list[NDArray[Any]]:
    """Finite y and prediction of one dtype; a chunk may be empty."""
    a = arrays.numbers("y", y)
    if len(a):
        return finite_columns(a, prediction, differences=differences)
    return arrays.common_float(a, arrays.numbers("prediction", prediction, length=0))


def intervals(lower: Any, upper: Any, y: Any) -> list[NDArray[Any]]:
    """Finite ends in order, and y, in one dtype, float32 or float64."""
    a, b = columns(lower, upper, names=("lower", "upper"))
    t = arrays.numbers("y", y, length=len(a), other="lower")
    arrays.reject_infinite("lower", a)
    arrays.reject_infinite("upper", b)
    if any(map(arrays.is_beyond_fp64, (a, b, t))):
        middle = t.astype(np.longdouble)
        a, b, t = (x.astype(np.longdouble) - middle for x in (a, b, t))
    a, b, t = arrays.common_float(a, b, t)
    crossed = a > b
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError(f"lower: expected at most upper, got {a[i]} above {b[i]} at index {i}")
    return [a, b, t]


def is_ordinary(sum_of_squares: float) -> bool:
    """Whether no square can have overflowed, or vanished to the sum's cost; a sum of 0 may be of vanished squares."""
    return 2.0**-900 < sum_of_squares < math.inf


def float64(*columns: NDArray[Any]) -> list[NDArray[np.float64]]:
    return [a.astype(np.float64) for a in columns]
