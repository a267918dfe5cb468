"""The definition of the root of the mean squared error, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

from ._range import difference, times_power_of_2

__all__ = ["rmse"]

Floats = NDArray[np.float64]


def rmse(y: Floats, prediction: Floats) -> float:
    d, e = difference(y, prediction)
    return times_power_of_2(float(np.sqrt(np.square(d).mean())), e)
