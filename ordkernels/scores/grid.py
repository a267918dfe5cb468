"""Binned XAUC without edges to choose: a grid that widens with the range of the rows and merges exactly."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._validation.numbers import integer
from ._inputs import finite_chunk
from .streaming import Accumulator, BinnedXAUC, BinnedXAUCResult, State, require_rows

__all__ = ["GridXAUC"]

_FINEST_EXPONENT = -42  # of 2, of the finest step: keys below 2^53 for every number allowed
_LARGEST = 2.0**300


class GridXAUC(Accumulator):
    """XAUC of any number of rows, with a guaranteed error bound: `BinnedXAUC` on a grid that adapts to the range of the rows.

    ``update(y [N], prediction [N])``. Numbers are mapped to a scale that is linear up to 1 and, beyond, logarithmic at powers of 2
    and linear between them. Bins on it are multiples of a power of 2, the smallest that covers all rows with `bins` bins: so the
    counts depend on the rows alone, not on their order, chunks or shards, and merging only adds bins together.

    Args:
        bins: of each side, 8 to 32768. Memory: ``8 bins^2`` bytes, twice that while the grid widens (128 MiB at 4096).

    Raises:
        TypeError, ValueError: as `ordkernels.scores.mae`; numbers beyond ``2^300``; ``result()`` before a row was seen.

    Example:
        >>> GridXAUC(bins=8).update([0.0, 3.0], [10.0, 20.0]).result()
        BinnedXAUCResult(value=1.0, bound=0.0, low=1.0, high=1.0)
    """

    _fields = ("_range", "_joint")
    _settings = ("bins",)

    def __init__(self, bins: int = 4096) -> None:
        self.bins = integer("bins", bins, least=8, most=32768)
        # of y and of the prediction: the lowest and the highest key (in finest steps), and the first bin of the table
        self._range = np.array([[1, 0, 0], [1, 0, 0]])
        self._joint = np.zeros((self.bins, self.bins), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        a, b = finite_chunk(y, prediction)
        if not len(a):
            return self
        ends = [(float(x.min()), float(x.max())) for x in (a, b)]
        for name, pair in zip(("y", "prediction"), ends, strict=True):
            if max(-pair[0], pair[1]) > _LARGEST:
                raise ValueError(f"{name}: expected magnitudes up to 2^300, got {pair[0] if -pair[0] > _LARGEST else pair[1]}")
        self._widen(np.array([[_key(x) for x in pair] for pair in ends]))
        edges = [_edges(self._shift(axis), int(self._range[axis, 2]), self.bins) for axis in (0, 1)]
        counts = BinnedXAUC(*edges)
        counts._joint = self._joint  # filled in place
        counts.update(a, b, num_threads=num_threads)
        return self

    def _add(self, state: State) -> None:
        other = GridXAUC.__new__(GridXAUC)
        other.bins, other._range, other._joint = self.bins, state["_range"], state["_joint"]
        if not other._empty():
            self._widen(other._range[:, :2])
            self._add_block(*other._block([self._shift(axis) for axis in (0, 1)]))

    def _empty(self) -> bool:
        return bool(self._range[0, 0] > self._range[0, 1])

    def _shift(self, axis: int) -> int:
        """How often the finest step is doubled: the least with which the range has no more than `bins` bins."""
        low, high = map(int, self._range[axis, :2])
        shift = max(0, (high - low).bit_length() - self.bins.bit_length())
        while (high >> shift) - (low >> shift) >= self.bins:
            shift += 1
        return shift

    def _widen(self, ends: NDArray[np.int64]) -> None:
        """Extend the range to `ends`. The table moves only if its bins are not enough: few times for many chunks."""
        was_empty, old, shifts = self._empty(), self._range, [self._shift(axis) for axis in (0, 1)]
        new = old.copy()
        new[:, 0], new[:, 1] = ends.T if was_empty else (np.minimum(old[:, 0], ends[:, 0]), np.maximum(old[:, 1], ends[:, 1]))
        self._range = new
        new_shifts, moves = [self._shift(axis) for axis in (0, 1)], False
        for axis, shift in enumerate(new_shifts):
            low, high = (int(x) >> shift for x in new[axis, :2])
            if was_empty or shift != shifts[axis] or not old[axis, 2] <= low <= high < old[axis, 2] + self.bins:
                new[axis, 2] = low - (self.bins - 1 - (high - low)) // 2  # in the middle
                moves = True
        if moves and not was_empty:
            self._range = old
            firsts, block = self._block(new_shifts)
            self._range, self._joint = new, np.zeros_like(self._joint)
            self._add_block(firsts, block)

    def _block(self, shifts: list[int]) -> tuple[list[int], NDArray[np.int64]]:
        """The first bin in use on each side, and the counts of those in use, added up to bins of `shifts`."""
        firsts, block = [], self._joint
        for axis in (0, 1):
            low, high, begin = map(int, self._range[axis])
            shift = self._shift(axis)
            first = low >> shift
            block = block.swapaxes(0, axis)[first - begin : (high >> shift) - begin + 1]
            for _ in range(shifts[axis] - shift):
                block = np.pad(block, ((first % 2, (first + len(block)) % 2), (0, 0)))
                block, first = block[::2] + block[1::2], first // 2
            block = block.swapaxes(0, axis)
            firsts.append(first)
        return firsts, block

    def _add_block(self, firsts: list[int], block: NDArray[np.int64]) -> None:
        i, j = (first - int(begin) for first, begin in zip(firsts, self._range[:, 2], strict=True))
        self._joint[i : i + block.shape[0], j : j + block.shape[1]] += block

    def result(self) -> BinnedXAUCResult:
        require_rows(not self._empty())
        _, block = self._block([self._shift(axis) for axis in (0, 1)])
        counts = BinnedXAUC(*(np.arange(n + 1.0) for n in block.shape))
        counts._joint = block
        return counts.result()


def _from_scale(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The number at each position of the scale: itself up to 1; at e + f, e whole, 2^(e - 1) (1 + f). Exact."""
    a = np.abs(x)
    e = np.floor(a)
    return np.where(a < 1, x, np.copysign(np.ldexp(1 + (a - e), np.maximum(e, 1).astype(np.int64) - 1), x))


def _edges(shift: int, first: int, bins: int) -> NDArray[np.float64]:
    return _from_scale(np.ldexp((first + np.arange(bins + 1)).astype(np.float64), shift + _FINEST_EXPONENT))


def _key(x: float) -> int:
    """The finest bin of x: the last whose edge is not above x."""
    m, e = math.frexp(abs(x))
    position = x if abs(x) < 1 else math.copysign(e + (2 * m - 1), x)
    k = math.floor(math.ldexp(position, -_FINEST_EXPONENT))  # the sum e + ... may have been rounded, either way
    while _edges(0, k, 0)[0] > x:
        k -= 1
    while _edges(0, k + 1, 0)[0] <= x:
        k += 1
    return k
