"""Scores of more rows than fit into memory, or of rows in many places: accumulators that take chunks and merge.

Each has ``update(...)`` for a chunk of rows, ``merge(other)`` for the rows of another process, ``result()``, and ``state()`` /
``load_state(...)``, plain NumPy arrays to send or save. Counts merge exactly; sums carry their rounding errors in a second fp64.
Memory does not grow with the rows. Without torch, unless a tensor comes in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .._backend import compiled_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import real
from ..reference._range import difference, exponent, times_power_of_2
from ..reference.histogram_jsd import divergences, mean_divergence
from ..reference.lcc import correlation
from ._inputs import finite_chunk, float64, intervals
from .histogram_jsd import check_base

__all__ = ["Accumulator", "BinnedXAUC", "BinnedXAUCResult", "Coverage", "Errors", "GroupedJSD", "SampleScores", "State", "require_rows"]

State = dict[str, NDArray[Any]]


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
        self.thetas = tuple(real("thetas", t, least=0, finite=False) for t in thetas)
        self._n = np.zeros((), np.int64)
        self._sums = np.zeros((5, 2))  # see _sums_of
        self._moments = np.zeros(7)  # see _moments_of
        self._within = np.zeros(len(self.thetas), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        c, threads = compiled_host("mae"), _threads(num_threads)
        y, prediction = arrays.numbers("y", y), arrays.as_numpy("prediction", prediction)
        columns = finite_chunk(y, prediction)
        if not len(y):
            return self
        is_rounded = arrays.is_beyond_fp64(y) or arrays.is_beyond_fp64(prediction)
        a, b = finite_chunk(y, prediction, differences=True) if is_rounded else columns
        if c is None:
            a, b = float64(a, b)
            with np.errstate(over="ignore"):
                d = a - b
                sums, within = (float(np.abs(d).sum()), float((d * d).sum())), [int((np.abs(d) <= t).sum()) for t in self.thetas]
        else:
            each = [c.errors(a, b, t, threads) for t in self.thetas or (0.0,)]
            sums, within = each[0][:2], [e[2] for e in each][: len(self.thetas)]
        self._add({
            "_n": np.array(len(a)), "_sums": _sums_of(a, b, *sums), "_moments": _moments_of(c, *columns, threads=threads),
            "_within": np.array(within, np.int64),
        })  # fmt: skip
        return self

    def _add(self, state: State) -> None:
        for i, (x, correction) in enumerate(state["_sums"]):
            _accumulate(self._sums, i, float(x), float(correction))
        self._within = self._within + state["_within"]
        n, m = int(self._n), int(state["_n"])
        if m:
            self._moments = _merged_moments(self._moments, n, state["_moments"], m) if n else state["_moments"].copy()
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
        scores = {"mae": absolute, "rmse": rmse, "lcc": correlation(*map(float, self._moments[2:5]))}
        return scores | {theta_key(t): int(w) / n for t, w in zip(self.thetas, self._within, strict=True)}


def theta_key(theta: float) -> str:
    """The name of the cumulative score of that theta, of which two thetas never share one."""
    return f"cs@{theta!r}".removesuffix(".0")


_ABSOLUTE, _SQUARE = 200, 600  # exponents of the powers of 2 that errors are scaled by in sums of their own


def _sums_of(a: NDArray[Any], b: NDArray[Any], absolute: float, square: float) -> NDArray[np.float64]:
    """A chunk's sums [5, 2] of |y - p|, and of it over 2^200 where it is large; of (y - p)^2, over 2^1200 where it is large and times
    2^1200 where it is small: no number is so large or small that a sum overflows or loses it."""
    sums = np.zeros((5, 2))
    is_large = not absolute < 2.0**900
    is_square = 2.0**-900 < square < 2.0**900
    if not is_large:
        sums[0, 0] = absolute
    if is_square:
        sums[2, 0] = square
    if is_large or (absolute > 0 and not is_square):
        d, e = difference(*float64(a, b))
        if is_large:
            sums[1, 0] = math.ldexp(float(np.abs(d).sum()), e - _ABSOLUTE)
        if not is_square:
            i, sign = (4, 1) if square <= 2.0**-900 else (3, -1)
            sums[i, 0] = math.ldexp(float((d * d).sum()), 2 * (e + sign * _SQUARE))
    return sums


def _moments_of(c: Any, a: NDArray[Any], b: NDArray[Any], *, threads: int) -> NDArray[np.float64]:
    """A chunk's means of y and p, sums of squares and products about them (yy, pp, yp), and two exponents: y and p are scaled by
    2^-exponent, which is 0 unless their squares could overflow or vanish."""
    found = c.moments(a, b, threads)[1:] if c else _moments(*float64(a, b))
    exponents = [
        0 if abs(mean) < 2.0**400 and 2.0**-800 < square < 2.0**800 else _exponent_of(x)
        for x, mean, square in ((a, found[0], found[2]), (b, found[1], found[3]))
    ]
    if any(exponents):
        found = _moments(*(np.ldexp(x, -e) for x, e in zip(float64(a, b), exponents, strict=True)))
    return np.array([*found, *exponents], np.float64)


def _exponent_of(x: NDArray[Any]) -> int:
    e = exponent(*float64(x))
    return 0 if abs(e) < 390 else e


def _moments(y: NDArray[np.float64], p: NDArray[np.float64]) -> list[float]:
    """Means of y and p, and the sums of squares and products about them, as the compiled kernel gives them."""
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = y - y[0], p - p[0]  # a constant column is exactly 0
        u, v = a - a.mean(), b - b.mean()
        return [float(x) for x in (y[0] + a.mean(), p[0] + b.mean(), (u * u).sum(), (v * v).sum(), (u * v).sum())]


def _merged_moments(a: NDArray[np.float64], n: int, b: NDArray[np.float64], m: int) -> NDArray[np.float64]:
    """By the formula of Chan, Golub and LeVeque."""
    if a[5:].any() or b[5:].any():
        a, b = _of_common_exponents(a, b)
    delta, share = b[:2] - a[:2], n * m / (n + m)
    cross = np.array([delta[0] ** 2, delta[1] ** 2, delta[0] * delta[1]])
    return np.concatenate((a[:2] + delta * (m / (n + m)), a[2:5] + b[2:5] + cross * share, a[5:]))


def _of_common_exponents(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Both scaled by the larger exponent of each column; a column of zeros has any."""
    exponents = [[-math.inf if x[i] == x[2 + i] == 0 else x[5 + i] for i in (0, 1)] for x in (a, b)]
    common = [max(e) if max(e) > -math.inf else 0.0 for e in zip(*exponents, strict=True)]
    scaled = []
    for x in (a, b):
        y, p = (int(max(x[5 + i] - common[i], -2200)) if x[i] or x[2 + i] else 0 for i in (0, 1))
        scaled.append(np.concatenate((np.ldexp(x[:5], [y, p, 2 * y, 2 * p, y + p]), common)))
    return scaled


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
            with np.errstate(over="ignore"):
                inside, width = int(((a <= t) & (t <= b)).sum()), float(np.subtract(*float64(b, a)).sum())
        else:
            inside, width, _ = c.coverage(a, b, t, threads)
        self._add({"_n": np.array(len(a)), "_inside": np.array(inside), "_width": _sums_of(b, a, width, 1.0)[:2]})
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
        self.fair = bool(fair)
        self.levels = None if levels is None else arrays.levels("levels", levels)
        self._n = np.zeros((), np.int64)
        self._sums = np.zeros((1 if self.levels is None else len(self.levels), 2))

    def update(self, samples: Any, y: Any) -> Self:
        t, s = arrays.numbers("y", y), arrays.as_numpy("samples", samples, "[N, L]")
        least = 2 if self.fair else 1
        if s.ndim != 2 or s.shape[1] < least or (self.levels is not None and s.shape[1] != len(self.levels)):
            form = f"L at least {least}" if self.levels is None else f"L = {len(self.levels)}, as levels"
            raise ValueError(f"samples: expected [N, L] with {form}, got {list(s.shape)}")
        if len(s) != len(t):
            raise ValueError(f"y: expected shape [N] = [{len(s)}], as samples, got [{len(t)}]")
        arrays.numbers("samples", s.reshape(-1))
        if not len(t):
            return self
        arrays.reject_infinite("samples", s)
        arrays.reject_infinite("y", t)
        d = s.astype(np.float64) - t.astype(np.float64)[:, None]
        if self.levels is None:
            L = d.shape[1]
            d.sort(axis=1)
            rank_weight = (2 * np.arange(L) - (L - 1)) / (L * (L - 1 if self.fair else L))
            score = (d * (np.sign(d) / L - rank_weight)).sum(1, keepdims=True)
        else:
            score = np.maximum(self.levels * -d, (self.levels - 1) * -d)
        sums = np.ascontiguousarray(score.T).sum(1)  # NumPy's pairwise summation works along the last axis only
        self._add({"_n": np.array(len(t)), "_sums": np.stack((sums, np.zeros_like(sums)), 1)})
        return self

    def _add(self, state: State) -> None:
        self._n = self._n + state["_n"]
        for i, (x, correction) in enumerate(state["_sums"]):
            _accumulate(self._sums, i, float(x), float(correction))

    def result(self) -> Any:
        means = self._sums.sum(1) / require_rows(self._n)
        return float(means[0]) if self.levels is None else means


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
