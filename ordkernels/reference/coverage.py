"""The definition of interval coverage, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

from ._range import difference, times_power_of_2

__all__ = ["coverage"]

Floats = NDArray[np.float64]


def coverage(lower: Floats, upper: Floats, y: Floats) -> tuple[float, float]:
    width, e = difference(upper, lower)
    return float(((lower <= y) & (y <= upper)).mean()), times_power_of_2(float(width.mean()), e)
