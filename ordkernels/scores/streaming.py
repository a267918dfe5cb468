"""Scores of more rows than fit into memory, or of rows in many places: accumulators that take chunks and merge.

Each has ``update(...)`` for a chunk of rows, ``merge(other)`` for the rows of another process, ``result()``, and ``state()`` /
``load_state(...)``, plain NumPy arrays to send or save. Counts merge exactly; sums carry their rounding errors in a second fp64.
Memory does not grow with the rows. Without torch, unless a tensor comes in.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .._backend import compiled_host
from .._validation import arrays
from .._validation.numbers import boolean, real
from .._validation.numbers import num_threads as _threads
from ..reference._range import difference, error_sums, times_power_of_2
from ..reference.histogram_jsd import divergences, mean_divergence
from ..reference.lcc import correlation
from ._inputs import finite_columns, float64, intervals
from ._moments import EMPTY, chunk_moments, merged_moments
from .histogram_jsd import check_base

__all__ = ["Accumulator", "BinnedXAUC", "BinnedXAUCResult", "Coverage", "Errors", "GroupedJSD", "SampleScores", "State", "require_rows"]

State = dict[str, NDArray[Any]]
Sum = tuple[float, int]  # value 2^exponent


class Accumulator:
    """What every accumulator has: `_fields` names its arrays, `_settings` the arguments that two of them share to be merged.

    A field in `_per_group` has as many rows as groups were seen, the others keep their shape.
    """

    _fields: tuple[str, ...] = ()
    _per_group: tuple[str, ...] = ()
    _settings: tuple[str, ...] = ()

    def state(self) -> State:
        """Copies of its arrays."""
        return {name: np.array(getattr(self, name)) for name in self._fields}

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Replace the state by that of an accumulator made with the same arguments.

        Raises:
            ValueError: an array that is missing, or of another shape.
        """
        groups, loaded = None, {}
        for name in self._fields:
            if name not in state:
                raise ValueError(f"state: expected {', '.join(self._fields)}, got no {name}")
            old, new = getattr(self, name), np.asarray(state[name])
            expected = old.shape
            if name in self._per_group and new.ndim:
                groups = len(new) if groups is None else groups
                expected = (groups, *old.shape[1:])
            if new.shape != expected:
                raise ValueError(f"state[{name!r}]: expected shape {list(expected)}, got {list(new.shape)}")
            loaded[name] = new.astype(old.dtype)
        for name, array in loaded.items():
            setattr(self, name, array)
        return self

    def merge(self, other: Self) -> Self:
        """Add the rows that another accumulator, made with the same arguments, has seen; the other does not change.

        Raises:
            TypeError, ValueError: another class, or other arguments.
        """
        if type(other) is not type(self):
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        for name in self._settings:
            own, others = getattr(self, name), getattr(other, name)
            if not np.array_equal(own, others):
                raise ValueError(f"other: expected the same {name}, {own}, got {others}")
        self._add(other.state())
        return self

    def _add(self, state: State) -> None:
        raise NotImplementedError


def require_rows(n: Any) -> int:
    if not int(n):
        raise ValueError("result: expected at least one row in all updates, got none")
    return int(n)


def _accumulate(total: NDArray[np.float64], i: int, x: float, correction: float = 0.0) -> None:
    """total[i] += x + correction, total [n, 2]: a sum, and the sum of its rounding errors (Knuth's two-sum)."""
    s = float(total[i, 0])
    new = s + x
    rounded = new - s
    total[i] = new, float(total[i, 1]) + correction + ((s - (new - rounded)) + (x - rounded))


class Errors(Accumulator):
    """MAE, RMSE, CS@theta and LCC of point predictions, in one pass.

    ``update(y [N], prediction [N])``. ``result()``: a dict of ``mae``, ``rmse``, ``lcc``, and ``cs@THETA`` for each theta.

    Args:
        thetas: of the cumulative scores, each at least 0.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.mae`; a negative theta; ``result()`` before a row was seen.

    Example:
        >>> e = Errors(thetas=(5,)).update([20, 30], [22, 36])
        >>> e.merge(Errors(thetas=(5,)).update([40], [40])).result()["cs@5"]
        0.6666666666666666
    """

    _fields = ("_n", "_sums", "_moments", "_within")
    _settings = ("thetas",)

    def __init__(self, thetas: Sequence[float] = ()) -> None:
        if isinstance(thetas, str | bytes) or not isinstance(thetas, Iterable):
            raise TypeError(f"thetas: expected a sequence of numbers, got {type(thetas).__name__}")
        self.thetas = tuple(real("thetas", t, least=0, finite=False) for t in thetas)
        self._n = np.zeros((), np.int64)
        self._sums = np.zeros((5, 2))  # see _sums_of
        self._moments = EMPTY.copy()
        self._within = np.zeros(len(self.thetas), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        c, threads = compiled_host("mae"), _threads(num_threads)
        y = arrays.numbers("y", y)
        prediction = arrays.numbers("prediction", prediction, length=len(y))
        if not len(y):
            return self
        a, b = u, v = shifted = finite_columns(y, prediction, rounded="difference")
        if arrays.is_beyond_fp64(y) or arrays.is_beyond_fp64(prediction):
            u, v = finite_columns(y, prediction, rounded="away from 0")
            shifted = finite_columns(y, prediction, rounded="shifted")
        if c is None:
            u, v = float64(u, v)
            with np.errstate(over="ignore"):
                sums, within = error_sums(*float64(a, b)), [int((np.abs(u - v) <= t).sum()) for t in self.thetas]
        else:
            each = [c.errors(u, v, t, threads) for t in self.thetas or (0.0,)]
            sums, within = (each[0] if u is a else c.errors(a, b, 0.0, threads))[:2], [e[2] for e in each][: len(self.thetas)]
        moments = chunk_moments(c, (y[0], prediction[0]), shifted, threads)
        self._add({"_n": np.array(len(y)), "_sums": _sums_of(*sums), "_moments": moments, "_within": np.array(within, np.int64)})
        return self

    def _add(self, state: State) -> None:
        for i, (x, correction) in enumerate(state["_sums"]):
            _accumulate(self._sums, i, float(x), float(correction))
        self._within = self._within + state["_within"]
        n, m = int(self._n), int(state["_n"])
        if m:
            self._moments = merged_moments(self._moments, n, state["_moments"], m) if n else state["_moments"].copy()
        self._n = np.array(n + m, np.int64)

    def result(self) -> dict[str, float]:
        n = require_rows(self._n)
        absolute, large, square, large_square, small_square = (float(x) / n for x in self._sums.sum(1))
        if large:
            absolute = times_power_of_2(large + math.ldexp(absolute, -_ABSOLUTE), _ABSOLUTE)
        if large_square:
            rmse = times_power_of_2(math.sqrt(large_square + math.ldexp(square, -2 * _SQUARE)), _SQUARE)
        elif square:
            rmse = math.sqrt(square + math.ldexp(small_square, -2 * _SQUARE))
        else:
            rmse = math.ldexp(math.sqrt(small_square), -_SQUARE)
        scores = {"mae": absolute, "rmse": rmse, "lcc": correlation(*map(float, self._moments[4:7]))}
        return scores | {theta_key(t): int(w) / n for t, w in zip(self.thetas, self._within, strict=True)}


def theta_key(theta: float) -> str:
    """The name of the cumulative score of that theta, of which two thetas never share one."""
    return f"cs@{theta!r}".removesuffix(".0")


_ABSOLUTE, _SQUARE = 200, 600  # exponents of the powers of 2 that errors are scaled by in sums of their own


def _sums_of(absolute: Sum, squared: Sum) -> NDArray[np.float64]:
    """A chunk's sums [5, 2] of |y - p|, and of it over 2^200 where it is large; of (y - p)^2, over 2^1200 where it is large and times
    2^1200 where it is small: no number is so large or small that a sum overflows or loses it."""
    sums, (a, s) = np.zeros((5, 2)), (times_power_of_2(*x) for x in (absolute, squared))
    if a < 2.0**900:
        sums[0, 0] = a
    else:
        sums[1, 0] = math.ldexp(absolute[0], absolute[1] - _ABSOLUTE)
    if 2.0**-900 < s < 2.0**900:
        sums[2, 0] = s
    elif squared[0]:
        i, sign = (4, 1) if s < 1 else (3, -1)
        sums[i, 0] = math.ldexp(squared[0], squared[1] + 2 * sign * _SQUARE)
    return sums


class Coverage(Accumulator):
    """Interval coverage and mean width. ``update(lower [N], upper [N], y [N])``; ``result()``: (share inside, mean width).

    Raises:
        TypeError, ValueError: as `ordkernels.scores.coverage`.

    Example:
        >>> Coverage().update([0, 0], [1, 3], [2, 3]).result()
        (0.5, 2.0)
    """

    _fields = ("_n", "_inside", "_width")

    def __init__(self) -> None:
        self._n, self._inside = np.zeros((), np.int64), np.zeros((), np.int64)
        self._width = np.zeros((2, 2))  # as the first two of _sums_of

    def update(self, lower: Any, upper: Any, y: Any, *, num_threads: int | None = None) -> Self:
        c, threads = compiled_host("coverage"), _threads(num_threads)
        a = arrays.numbers("lower", lower)
        if not len(a):
            return self
        a, b, t = intervals(a, upper, y)
        if c is None:
            inside, width = int(((a <= t) & (t <= b)).sum()), error_sums(*float64(b, a))[0]
        else:
            inside, width, _ = c.coverage(a, b, t, threads)
        self._add({"_n": np.array(len(a)), "_inside": np.array(inside), "_width": _sums_of(width, (0.0, 0))[:2]})
        return self

    def _add(self, state: State) -> None:
        self._n, self._inside = self._n + state["_n"], self._inside + state["_inside"]
        for i in (0, 1):
            _accumulate(self._width, i, *map(float, state["_width"][i]))

    def result(self) -> tuple[float, float]:
        n = require_rows(self._n)
        width, large = (float(x) / n for x in self._width.sum(1))
        mean = times_power_of_2(large + math.ldexp(width, -_ABSOLUTE), _ABSOLUTE) if large else width
        return int(self._inside) / n, mean


class SampleScores(Accumulator):
    """Mean CRPS of samples, or mean pinball loss of quantiles per level. In NumPy on every backend.

    ``update(samples [N, L], y [N])``. ``result()``: the mean CRPS, or with `levels` the mean losses ``[L]``.

    Args:
        levels: ``[L]`` in [0, 1]: the samples are quantiles at these levels, and the score is the pinball loss.
        fair: as for `ordkernels.ops.crps`.

    Raises:
        TypeError, ValueError: shapes that do not match, NaN or infinities, levels outside [0, 1].

    Example:
        >>> SampleScores().update([[0.0, 2.0]], [1.0]).result()
        0.5
        >>> SampleScores(levels=[0.5, 0.75]).update([[1.0, 4.0]], [3.0]).result()
        array([1.  , 0.25])
    """

    _fields = ("_n", "_sums")
    _settings = ("levels", "fair")

    def __init__(self, levels: Any = None, fair: bool = False) -> None:
        self.fair = boolean("fair", fair)
        self.levels = None if levels is None else arrays.levels("levels", levels)
        self._n = np.zeros((), np.int64)
        self._sums = np.zeros((2 * (1 if self.levels is None else len(self.levels)), 2))  # each; each over 2^200 where it is large

    def update(self, samples: Any, y: Any) -> Self:
        t, s = arrays.numbers("y", y), arrays.as_numpy("samples", samples, "[N, L]")
        least = 2 if self.fair else 1
        if s.ndim != 2 or s.shape[1] < least or (self.levels is not None and s.shape[1] != len(self.levels)):
            form = f"L at least {least}" if self.levels is None else f"L = {len(self.levels)}, as levels"
            raise ValueError(f"samples: expected [N, L] with {form}, got {list(s.shape)}")
        if len(s) != len(t):
            raise ValueError(f"y: expected shape [N] = [{len(s)}], as samples, got [{len(t)}]")
        s = arrays.numbers("samples", s.reshape(-1)).reshape(s.shape)
        if not len(t):
            return self
        arrays.reject_infinite("samples", s)
        arrays.reject_infinite("y", t)
        d, exponent = _deviations(s, t[:, None])
        if self.levels is None:
            L = d.shape[1]
            d.sort(axis=1)
            rank_weight = (2 * np.arange(L) - (L - 1)) / (L * (L - 1 if self.fair else L))
            score = (d * (np.sign(d) / L - rank_weight)).sum(1, keepdims=True)
        else:
            score = np.maximum(self.levels * -d, (self.levels - 1) * -d)
        found = np.ascontiguousarray(score.T).sum(1)  # NumPy's pairwise summation works along the last axis only
        sums = np.zeros_like(self._sums)
        for i, x in enumerate(map(float, found)):
            if times_power_of_2(x, exponent) < 2.0**900:
                sums[i, 0] = math.ldexp(x, exponent)
            else:
                sums[len(found) + i, 0] = math.ldexp(x, exponent - _ABSOLUTE)
        self._add({"_n": np.array(len(t)), "_sums": sums})
        return self

    def _add(self, state: State) -> None:
        self._n = self._n + state["_n"]
        for i, (x, correction) in enumerate(state["_sums"]):
            _accumulate(self._sums, i, float(x), float(correction))

    def result(self) -> Any:
        means, large = (self._sums.sum(1) / require_rows(self._n)).reshape(2, -1)
        if large.any():
            means = np.array([times_power_of_2(b + math.ldexp(a, -_ABSOLUTE), _ABSOLUTE) for a, b in zip(means, large, strict=True)])
        return float(means[0]) if self.levels is None else means


def _deviations(samples: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """(d, e): samples - y is d 2^e, and e is 0 unless that overflows or nearly vanishes. Nothing is rounded before it is subtracted."""
    with np.errstate(over="ignore"):
        if arrays.is_beyond_fp64(samples) or arrays.is_beyond_fp64(y):
            d = (samples.astype(np.longdouble) - y.astype(np.longdouble)).astype(np.float64)
        else:
            d = np.subtract(samples, y, dtype=np.float64)
    largest = max(d.max(), -d.min())
    return (d, 0) if largest == 0 or 2.0**-900 < largest < 2.0**900 else difference(*float64(samples, y))


class GroupedJSD(Accumulator):
    """`ordkernels.scores.histogram_jsd` in chunks: histograms of every group seen so far, 16 M bytes a group.

    ``update(y [N], prediction [N], group [N])``; ``result()``: the mean divergence over groups.

    Args:
        edges, base: as for `ordkernels.scores.histogram_jsd`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.histogram_jsd`; ``result()`` before a row was seen.

    Example:
        >>> a, b = GroupedJSD(edges=[0, 2, 4]), GroupedJSD(edges=[0, 2, 4])
        >>> a.update([0, 1], [0, 5], [7, 7]).merge(b.update([5], [1], [7])).result()
        0.0
    """

    _fields = ("_ids", "_counts")
    _per_group = _fields
    _settings = ("edges", "base")

    def __init__(self, edges: Any, base: float = math.e) -> None:
        self.base, self.edges = check_base(base), arrays.edges("edges", edges)
        self._ids, self._counts = np.zeros(0, np.int64), np.zeros((0, 2, len(self.edges) - 1), np.int64)

    def update(self, y: Any, prediction: Any, group: Any, *, num_threads: int | None = None) -> Self:
        c, threads = compiled_host("histogram_jsd"), _threads(num_threads)
        a = arrays.numbers("y", y)
        b, g = arrays.numbers("prediction", prediction, length=len(a)), arrays.integers("group", group, length=len(a))
        if not len(a):
            return self
        if c is None:
            ids, code = np.unique(g, return_inverse=True)
            G, M = len(ids), len(self.edges) - 1
            bins = (np.searchsorted(self.edges[1:-1], x, side="right") for x in arrays.binnable(a, b))
            counts = np.stack([np.bincount(code * M + i, minlength=G * M).reshape(G, M) for i in bins], 1)
        else:
            ids, counts = c.histogram_counts(*arrays.binnable(a, b), g, self.edges, threads)
        self._add({"_ids": ids, "_counts": counts})
        return self

    def _add(self, state: State) -> None:
        ids, counts = state["_ids"], state["_counts"]
        new = ids[~np.isin(ids, self._ids, assume_unique=True)]
        if len(new):
            merged = np.sort(np.concatenate((self._ids, new)))
            counts_of_merged = np.zeros((len(merged), *self._counts.shape[1:]), np.int64)
            counts_of_merged[np.searchsorted(merged, self._ids)] = self._counts
            self._ids, self._counts = merged, counts_of_merged
        self._counts[np.searchsorted(self._ids, ids)] += counts  # ids are unique

    def result(self) -> float:
        require_rows(len(self._ids))
        total = 0.0
        for begin in range(0, len(self._ids), 4096):  # temporaries of a few MB
            part = self._counts[begin : begin + 4096].astype(np.float64)
            total += divergences(part[:, 0], part[:, 1]).sum()
        return mean_divergence(float(total), len(self._ids), self.base)


class BinnedXAUCResult(NamedTuple):
    """The exact XAUC of all rows is within `bound` of `value`, and between `low` and `high`."""

    value: float
    bound: float
    low: float
    high: float


class BinnedXAUC(Accumulator):
    """XAUC from a joint histogram of labels and predictions: mergeable, of any number of rows, with a guaranteed error bound.

    ``update(y [N], prediction [N])``. Pairs in different bins of both are counted exactly. With C concordant and D discordant
    ones of these, T pairs in one bin of the prediction alone and S in one bin of y, which may count or not:
    ``value = (C + T / 2) / (C + D + T)``, and the exact XAUC (ties half) is between ``C / all`` and ``(C + T + S) / all``,
    ``all = C + D + T + S``.

    Args:
        y_edges, prediction_edges: ``[A+1]``, ``[B+1]``, ascending, the end bins open; bins of near equal mass give the tightest bound.
            Memory: 8 A B bytes.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.xauc`; edges that do not ascend.

    Example:
        >>> BinnedXAUC([0, 1, 2], [0, 1, 2]).update([0.5, 1.5], [0.1, 1.2]).result()
        BinnedXAUCResult(value=1.0, bound=0.0, low=1.0, high=1.0)
    """

    _fields = ("_joint",)
    _settings = ("y_edges", "prediction_edges")

    def __init__(self, y_edges: Any, prediction_edges: Any) -> None:
        self.y_edges, self.prediction_edges = arrays.edges("y_edges", y_edges), arrays.edges("prediction_edges", prediction_edges)
        self._joint = np.zeros((len(self.y_edges) - 1, len(self.prediction_edges) - 1), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        c, threads = compiled_host("xauc"), _threads(num_threads)
        a = arrays.numbers("y", y)
        b = arrays.numbers("prediction", prediction, length=len(a))
        if c is None:
            a, b = arrays.binnable(a, b)
            i, j = (np.searchsorted(e[1:-1], x, side="right") for e, x in ((self.y_edges, a), (self.prediction_edges, b)))
            np.add.at(self._joint, (i, j), 1)
        else:
            c.joint_counts(*arrays.binnable(a, b), self.y_edges, self.prediction_edges, self._joint, threads)
        return self

    def _add(self, state: State) -> None:
        self._joint += state["_joint"]

    def result(self) -> BinnedXAUCResult:
        joint = self._joint
        n = require_rows(joint.sum())
        pairs = n * (n - 1) // 2
        if not pairs:
            return BinnedXAUCResult(math.nan, math.nan, math.nan, math.nan)
        same_y, same_p, same_both = (_pairs(m) for m in (joint.sum(1), joint.sum(0), joint))
        concordant, below = 0, np.zeros(joint.shape[1], np.int64)  # below: rows of lower y, by bins of the prediction
        for row in joint:
            concordant += int((row[1:] * below.cumsum()[:-1]).sum())
            below += row
        tied, ordered = same_p - same_both, pairs - same_y
        low, high = concordant / pairs, (concordant + tied + same_y) / pairs
        value = (concordant + tied / 2) / ordered if ordered else 0.5
        return BinnedXAUCResult(value, max(high - value, value - low), low, high)


def _pairs(counts: NDArray[np.int64]) -> int:
    """Pairs of rows in one bin."""
    return int((counts * (counts - 1) // 2).sum())
