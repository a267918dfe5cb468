"""The definition of Kendall's tau, in plain NumPy. Arguments are already checked: arrays of one length, without NaN."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .xauc import xauc_counts

__all__ = ["kendall_tau"]

Array = NDArray[Any]


def kendall_tau(y: Array, prediction: Array, variant: str) -> float:
    """(concordant - discordant) pairs over the variant's scale."""
    concordant, _, pairs_of_y, _ = xauc_counts(y, prediction, None, None)
    _, _, pairs_of_prediction, _ = xauc_counts(prediction, y, None, None)
    falling = -np.unique(prediction, return_inverse=True)[1]
    discordant = xauc_counts(y, falling, None, None)[0]
    n, m = len(y), min(len(np.unique(y)), len(np.unique(prediction)))
    scale = {"a": n * (n - 1) / 2, "b": math.sqrt(pairs_of_y * pairs_of_prediction), "c": n * n * (m - 1) / (2 * m)}[variant]
    return (concordant - discordant) / scale if scale else math.nan
