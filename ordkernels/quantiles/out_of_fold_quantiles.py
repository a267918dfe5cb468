"""Quantiles of every event's group, without the events of its own fold."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._backend import compiled_host
from .._validation import arrays
from .._validation.numbers import integer
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import seed as _seed
from ..reference import segment_quantiles as reference
from ._inputs import as_offsets, as_values, restore

__all__ = ["out_of_fold_quantiles"]

_MOST_FOLDS = 1000


def out_of_fold_quantiles(
    values: ArrayLike, offsets: ArrayLike, levels: ArrayLike, *, folds: int = 5, seed: int = 0, num_threads: int | None = None
) -> Any:
    """Quantiles of every event's group without the events of its own fold: features of data without times.

    Events are dealt at random to ``folds`` folds. ``out[i, l]`` is level l of those of ``values[offsets[g]:offsets[g + 1]]`` whose fold
    is not that of event i, g the group of i. All events of a group and fold have the same quantiles, so these do not tell one's
    own value from another's, as `leave_one_out_quantiles` do. They see the future: for data with times use `history_quantiles`.
    For new events of known groups use `segment_quantiles` of all events.

    Args:
        values, offsets, levels, num_threads: as for `segment_quantiles`.
        folds: 2 to 1,000; the time is in proportion.
        seed: of the deal; event i goes to the same fold whatever else there is.

    Returns:
        ``[N, L]`` in the unit of values; NaN where a group has no events in other folds.

    Raises:
        TypeError, ValueError: as `segment_quantiles`; folds out of range.

    Source: Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", SIGKDD Explorations 2001, with the
        cross-fitting of target encoders.

    Example:
        >>> out_of_fold_quantiles([3.0, 1.0, 2.0, 7.0, 5.0], [0, 4, 5], [0.5], folds=2)
        array([[4. ],
               [2.5],
               [4. ],
               [2.5],
               [nan]])
    """
    x, folds = as_values(values), integer("folds", folds, least=2, most=_MOST_FOLDS)
    starts, at, threads = as_offsets(offsets, x.size), arrays.levels("levels", levels), _threads(num_threads)
    group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    fold = _deal(x.size, folds, _seed(seed))
    quantiles = (compiled_host("segment_quantiles") or reference).segment_quantiles
    out = np.empty((x.size, len(at)), dtype=x.dtype)
    for f in np.unique(fold):
        others = fold != f
        kept = np.concatenate(([0], np.cumsum(others)))[starts]
        out[~others] = quantiles(x[others], kept, at, threads)[group[~others]]
    return restore(values, out)


def _deal(N: int, folds: int, seed: int) -> NDArray[np.uint64]:
    """The fold of each event, ``[N]``: whole numbers of a bit generator, which no release of NumPy may change."""
    bits: NDArray[np.uint64] = np.random.Philox(key=seed % 2**64).random_raw(N)
    return bits % np.uint64(folds)
