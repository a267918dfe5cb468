"""The definition of Pearson's linear correlation, in plain NumPy. Arguments are already checked."""

import math

import numpy as np
from numpy.typing import NDArray

from ._range import centred

__all__ = ["correlation", "lcc"]

Floats = NDArray[np.float64]


def lcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation; NaN where either side is constant."""
    a, b = centred(y), centred(prediction)
    return correlation(*(float((u * v).sum()) for u, v in ((a, a), (b, b), (a, b))))


def correlation(yy: float, pp: float, yp: float) -> float:
    """From the sums of squares and products about the means; NaN where either column is constant."""
    scale = math.sqrt(yy) * math.sqrt(pp)
    return math.nan if not scale > 0 or math.isnan(yp) else max(-1.0, min(1.0, yp / scale))
