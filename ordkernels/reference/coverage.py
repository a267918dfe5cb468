"""The definition of interval coverage, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["coverage"]

Floats = NDArray[np.float64]


def coverage(lower: Floats, upper: Floats, y: Floats) -> tuple[float, float]:
    return float(((lower <= y) & (y <= upper)).mean()), float((upper - lower).mean())
