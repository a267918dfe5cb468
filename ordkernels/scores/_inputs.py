"""What the scores share: their columns as checked arrays."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays


def columns(a: Any, b: Any, *, names: tuple[str, str] = ("y", "prediction"), nan: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two vectors of the same length, of at least one row; without NaN unless `nan`."""
    first = arrays.numbers(names[0], a, nan=nan)
    if not len(first):
        raise ValueError(f"{names[0]}: expected at least one row, got none")
    return first, arrays.numbers(names[1], b, length=len(first), other=names[0], nan=nan)


def finite_columns(
    y: Any, prediction: Any, *, rounded: Literal["each", "difference", "away from 0", "shifted"] = "each"
) -> list[NDArray[Any]]:
    """y and prediction in one dtype, float32 or float64.

    What becomes of numbers that fp64 rounds: ``"each"`` is; or y - prediction and 0 are returned, that ``"difference"`` rounded, or
    ``"away from 0"``, so that it is above a tolerance where the exact one is; or such a column is ``"shifted"`` by its first row.
    """
    a, b = columns(y, prediction)
    arrays.reject_infinite("y", a)
    arrays.reject_infinite("prediction", b)
    if rounded == "shifted":
        a, b = (_shifted(x) if arrays.is_beyond_fp64(x) else x for x in (a, b))
    elif rounded != "each" and (arrays.is_beyond_fp64(a) or arrays.is_beyond_fp64(b)):
        d = _difference(a, b, away=rounded == "away from 0")
        if np.isfinite(d).all():  # else what fp64 rounds is nothing beside them
            a, b = d, np.zeros_like(d)
    return arrays.common_float(a, b)


def _shifted(x: NDArray[Any]) -> NDArray[np.float64]:
    wide = x.astype(np.longdouble)
    return (wide - wide[0]).astype(np.float64)


def _difference(a: NDArray[Any], b: NDArray[Any], *, away: bool = False) -> NDArray[np.float64]:
    """a - b, rounded to the nearest number, or `away` from 0."""
    u, v = a.astype(np.longdouble), b.astype(np.longdouble)
    with np.errstate(over="ignore", invalid="ignore"):
        d = u - v
        x = d.astype(np.float64)
        if not away:
            return x
        part = d - u
        lost = (u - (d - part)) - (v + part)  # of d: the exact difference is d + lost (Knuth's two-sum)
        too_near = (np.abs(x) < np.abs(d)) | ((x == d) & (lost * np.sign(d) > 0))
        return np.where(too_near, np.nextafter(x, np.copysign(np.inf, x)), x)


def finite_chunk(y: Any, prediction: Any) -> list[NDArray[Any]]:
    """Finite y and prediction of one dtype; a chunk may be empty."""
    a = arrays.numbers("y", y)
    if len(a):
        return finite_columns(a, prediction)
    return arrays.common_float(a, arrays.numbers("prediction", prediction, length=0))


def intervals(lower: Any, upper: Any, y: Any) -> list[NDArray[Any]]:
    """Finite ends in order, and y, in one dtype, float32 or float64.

    Of numbers that fp64 would round, the ends are moved to 0 and the width, and y to the lower end, or below it where it is outside.
    """
    a, b = columns(lower, upper, names=("lower", "upper"))
    t = arrays.numbers("y", y, length=len(a), other="lower")
    arrays.reject_infinite("lower", a)
    arrays.reject_infinite("upper", b)
    is_rounded = any(map(arrays.is_beyond_fp64, (a, b, t)))
    u, v = (x.astype(np.longdouble) if is_rounded else x for x in (a, b))
    crossed = u > v
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError(f"lower: expected at most upper, got {a[i]} above {b[i]} at index {i}")
    if is_rounded and np.isfinite(width := _difference(b, a)).all():
        middle = t.astype(np.longdouble)
        a, b, t = np.zeros_like(width), width, np.where((u <= middle) & (middle <= v), 0.0, -1.0)
    return arrays.common_float(a, b, t)


def float64(*columns: NDArray[Any]) -> list[NDArray[np.float64]]:
    return [a.astype(np.float64) for a in columns]
