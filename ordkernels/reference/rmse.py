"""The definition of the root of the mean squared error, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["rmse"]

Floats = NDArray[np.float64]


def rmse(y: Floats, prediction: Floats) -> float:
    return float(np.sqrt(np.square(y - prediction).mean()))
