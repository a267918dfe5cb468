"""The definitions of the errors of point predictions, in plain NumPy. Arguments are already checked."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["cumulative_score", "lcc", "mae", "rmse"]

Floats = NDArray[np.float64]


def mae(y: Floats, prediction: Floats) -> float:
    return float(np.abs(y - prediction).mean())


def rmse(y: Floats, prediction: Floats) -> float:
    return float(np.sqrt(np.square(y - prediction).mean()))


def cumulative_score(y: Floats, prediction: Floats, theta: float) -> float:
    return float((np.abs(y - prediction) <= theta).mean())


def lcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation; NaN where either side is constant."""
    a, b = y - y[0], prediction - prediction[0]  # a constant column is exactly 0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else math.nan
