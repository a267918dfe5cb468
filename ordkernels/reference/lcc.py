"""The definition of Pearson's linear correlation, in plain NumPy. Arguments are already checked."""

import math

import numpy as np
from numpy.typing import NDArray

from ._range import centred, difference

__all__ = ["correlation", "lcc", "moments"]

Floats = NDArray[np.float64]


def lcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation; NaN where either side is constant."""
    a, b = centred(y), centred(prediction)
    return correlation(*(float((u * v).sum()) for u, v in ((a, a), (b, b), (a, b))))


def moments(y: Floats, prediction: Floats) -> tuple[float, float, float, float, float, int, int]:
    """Of both columns less their first rows and times 2^-exponent: means, sums of squares and products about them (yy, pp, yp); and
    the exponents, 0 unless squares could overflow or vanish."""
    (a, y_exponent), (b, p_exponent) = _offsets(y), _offsets(prediction)
    u, v = a - a.mean(), b - b.mean()
    yy, pp, yp = (float((s * t).sum()) for s, t in ((u, u), (v, v), (u, v)))
    return float(a.mean()), float(b.mean()), yy, pp, yp, y_exponent, p_exponent


def _offsets(x: Floats) -> tuple[Floats, int]:
    d, e = difference(x, np.full_like(x, x[0]))
    return (d, e) if abs(e) > 390 else (np.ldexp(d, e), 0)


def correlation(yy: float, pp: float, yp: float) -> float:
    """From the sums of squares and products about the means; NaN where either column is constant."""
    if not (yy > 0 and pp > 0) or math.isnan(yp):
        return math.nan
    (a, i), (b, j) = math.frexp(yy), math.frexp(pp)  # the root of yy pp, which may itself be out of range
    odd = (i + j) % 2
    scale = math.ldexp(math.sqrt(math.ldexp(a * b, odd)), (i + j - odd) // 2)
    return max(-1.0, min(1.0, yp / scale))
