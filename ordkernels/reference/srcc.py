"""The definition of Spearman's rank correlation, in plain NumPy. Arguments are already checked."""

import numpy as np
from numpy.typing import NDArray

from .lcc import lcc

__all__ = ["srcc"]

Floats = NDArray[np.float64]


def srcc(y: Floats, prediction: Floats) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank."""
    return lcc(_mean_ranks(y), _mean_ranks(prediction))


def _mean_ranks(x: Floats) -> Floats:
    _, code, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[code]
