"""The definition of Pearson's linear correlation, in plain NumPy. Arguments are already checked."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["lcc"]

Floats = NDArray[np.float64]


def lcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation; NaN where either side is constant."""
    a, b = y - y[0], prediction - prediction[0]  # a constant column is exactly 0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else math.nan
