"""The definition of history_quantiles, in plain NumPy. Arguments are already checked; num_threads is not used."""

import numpy as np
from numpy.typing import NDArray

from ._quantiles import Floats, Ints, quantile_row

__all__ = ["history_quantiles"]


def history_quantiles(
    values: Floats, group: Ints, time: NDArray[np.generic], levels: Floats, min_events: int, num_threads: int = 1
) -> Floats:
    """values, group, time [N], levels [L] -> [N, L]."""
    out = np.full((len(values), len(levels)), np.nan, values.dtype)
    for i in range(len(values)):
        past = values[(group == group[i]) & (time < time[i])]
        if past.size >= min_events:
            out[i] = quantile_row(past, levels)
    return out
