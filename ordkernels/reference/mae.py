"""The definition of the mean absolute error, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

from ._range import difference, times_power_of_2

__all__ = ["mae"]

Floats = NDArray[np.float64]


def mae(y: Floats, prediction: Floats) -> float:
    d, e = difference(y, prediction)
    return times_power_of_2(float(np.abs(d).mean()), e)
