"""The definition of the mean absolute error, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["mae"]

Floats = NDArray[np.float64]


def mae(y: Floats, prediction: Floats) -> float:
    return float(np.abs(y - prediction).mean())
