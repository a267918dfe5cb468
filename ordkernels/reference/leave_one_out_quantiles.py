"""The definition of leave_one_out_quantiles, in plain NumPy. Arguments are already checked; num_threads is not used."""

from itertools import pairwise

import numpy as np

from ._quantiles import Floats, Ints, quantile_row

__all__ = ["leave_one_out_quantiles"]


def leave_one_out_quantiles(values: Floats, offsets: Ints, levels: Floats, num_threads: int = 1) -> Floats:
    """values [N], offsets [G+1], levels [L] -> [N, L]."""
    out = np.empty((len(values), len(levels)), values.dtype)
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            out[i] = quantile_row(np.delete(values[begin:end], i - begin), levels)
    return out
