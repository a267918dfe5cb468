"""The definition of the cumulative score, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cumulative_score"]

Floats = NDArray[np.float64]


def cumulative_score(y: Floats, prediction: Floats, theta: float) -> float:
    with np.errstate(over="ignore"):  # a difference that overflows is above every finite theta
        return float((np.abs(y - prediction) <= theta).mean())
