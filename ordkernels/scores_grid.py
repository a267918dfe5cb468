"""Binned XAUC without edges to choose: a grid that widens with the range of the rows, and merges exactly."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .scores_stream import BinnedXAUC, BinnedXAUCResult, _chunk, _Stream

__all__ = ["GridXAUC"]

_FINEST = -42  # binary exponent of the finest step: keys below 2^53 for every number allowed
_LARGEST = 2.0**300


class GridXAUC(_Stream):
    """XAUC of any number of rows, with a guaranteed error bound: `BinnedXAUC` on a grid that fits itself to what comes.

    ``update(y [N], prediction [N])``. Numbers are laid on a scale that is linear up to 1 and logarithmic, straight between powers
    of 2, beyond. Bins on it are multiples of a power of 2, the smallest that covers all rows with `bins` bins: so the counts
    depend on the rows alone, not on their order, chunks or shards, and merging only adds bins together.

    Args:
        bins: of each side, 8 to 32768. Memory: ``8 bins^2`` bytes, twice while the grid widens (128 MiB at 4096).

    Raises:
        TypeError, ValueError: as `ordkernels.scores.mae`; numbers beyond ``2^300``; ``result()`` before a row was seen.

    Example:
        >>> GridXAUC(bins=8).update([0.0, 3.0], [10.0, 20.0]).result()
        BinnedXAUCResult(value=1.0, bound=0.0, low=1.0, high=1.0)
    """

    _fields = ("_range", "_joint")
    _same = ("bins",)

    def __init__(self, bins: int = 4096) -> None:
        if isinstance(bins, bool) or not isinstance(bins, int | np.integer):
            raise TypeError(f"bins: expected an int, got {type(bins).__name__}")
        if not 8 <= bins <= 32768:
            raise ValueError(f"bins: expected 8 to 32768, got {bins}")
        self.bins = int(bins)
        self._range = np.array([[1, 0], [1, 0]])  # of y and of the prediction: lowest and highest key, of the finest step
        self._joint = np.zeros((self.bins, self.bins), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        a, b = _chunk(y, prediction)
        if not len(a):
            return self
        ends = [(float(x.min()), float(x.max())) for x in (a, b)]
        for name, pair in zip(("y", "prediction"), ends, strict=True):
            if max(-pair[0], pair[1]) > _LARGEST:
                raise ValueError(f"{name}: expected magnitudes up to 2^300, got {pair[0] if -pair[0] > _LARGEST else pair[1]}")
        self._widen(np.array([[_key(x) for x in pair] for pair in ends]))
        edges = [_edges(*self._place(axis), self.bins) for axis in (0, 1)]
        counts = BinnedXAUC(*edges)
        counts._joint = self._joint  # filled in place
        counts.update(a, b, num_threads=num_threads)
        return self

    def _add(self, state: dict[str, NDArray[Any]]) -> None:
        other = GridXAUC(self.bins).load_state(state)
        if other._range[0, 0] > other._range[0, 1]:
            return
        self._widen(other._range)
        other._widen(self._range)
        self._joint += other._joint

    def _place(self, axis: int) -> tuple[int, int]:
        """Of the rows' range: the step's exponent above the finest, and the first bin, so that the range is in the middle."""
        low, high = map(int, self._range[axis])
        shift = max(0, (high - low).bit_length() - self.bins.bit_length())
        while (high >> shift) - (low >> shift) >= self.bins:
            shift += 1
        return shift, (low >> shift) - (self.bins - 1 - ((high >> shift) - (low >> shift))) // 2

    def _widen(self, ends: NDArray[np.int64]) -> None:
        """Make the range cover `ends` too, and move the counts to the bins that this gives."""
        if self._range[0, 0] > self._range[0, 1]:
            self._range = ends.copy()
            return
        old, before = self._range, [self._place(axis) for axis in (0, 1)]
        self._range = np.stack((np.minimum(old[:, 0], ends[:, 0]), np.maximum(old[:, 1], ends[:, 1])), 1)
        for axis in (0, 1):
            (shift, first), (new_shift, new_first) = before[axis], self._place(axis)
            if (shift, first) == (new_shift, new_first):
                continue
            used = np.arange(old[axis, 0] >> shift, (old[axis, 1] >> shift) + 1)
            to = (used >> (new_shift - shift)) - new_first
            runs = np.flatnonzero(np.diff(to, prepend=to[0] - 1))
            rows = self._joint.swapaxes(0, axis)
            moved = np.zeros_like(self._joint)
            moved.swapaxes(0, axis)[to[runs]] = np.add.reduceat(rows[used - first], runs, axis=0)
            self._joint = moved

    def result(self) -> BinnedXAUCResult:
        self._need_rows(self._range[0, 0] <= self._range[0, 1])
        used = []
        for axis in (0, 1):
            shift, first = self._place(axis)
            used.append(slice((int(self._range[axis, 0]) >> shift) - first, (int(self._range[axis, 1]) >> shift) - first + 1))
        block = self._joint[tuple(used)]
        counts = BinnedXAUC(*(np.arange(n + 1.0) for n in block.shape))
        counts._joint = block
        return counts.result()


def _position(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The number at each place of the scale: itself up to 1; at e + f, e whole, 2^(e - 1) (1 + f). Exact."""
    a = np.abs(x)
    e = np.floor(a)
    return np.where(a < 1, x, np.copysign(np.ldexp(1 + (a - e), np.maximum(e, 1).astype(np.int64) - 1), x))


def _edges(shift: int, first: int, bins: int) -> NDArray[np.float64]:
    return _position(np.ldexp((first + np.arange(bins + 1)).astype(np.float64), shift + _FINEST))


def _key(x: float) -> int:
    """The finest bin of x: the last whose edge is not above x."""
    m, e = math.frexp(abs(x))
    place = x if abs(x) < 1 else math.copysign(e + (2 * m - 1), x)
    k = math.floor(math.ldexp(place, -_FINEST))  # the sum e + ... may have been rounded, either way
    while _edges(0, k, 0)[0] > x:
        k -= 1
    while _edges(0, k + 1, 0)[0] <= x:
        k += 1
    return k
