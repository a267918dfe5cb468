"""The definition of segment_quantiles, in plain NumPy. Arguments are already checked; num_threads is not used."""

import numpy as np

from ._quantiles import Floats, Ints, quantile_row

__all__ = ["segment_quantiles"]


def segment_quantiles(values: Floats, offsets: Ints, levels: Floats, num_threads: int = 1) -> Floats:
    """values [N], offsets [G+1], levels [L] -> [G, L]."""
    out = np.empty((len(offsets) - 1, len(levels)), values.dtype)
    for g in range(len(out)):
        out[g] = quantile_row(values[offsets[g] : offsets[g + 1]], levels)
    return out
