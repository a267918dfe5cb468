"""Scores of more rows than fit into memory, or of rows in many places: accumulators that take chunks and merge.

Each has ``update(...)`` for a chunk of rows, ``merge(other)`` for what another process has seen, ``result()``, and ``state()`` /
``load_state(...)``, plain NumPy arrays to send or save. Counts merge exactly; sums keep a second fp64 for what the first rounds away.
Memory does not grow with the rows. NumPy alone, unless a tensor comes in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ._backend import host_module
from .quantiles import _threads
from .reference import scores as reference
from .scores import _array, _edges, _finite_pair, _floats, _group, _reject_infinite, _two, _wide, correlation

__all__ = ["BinnedXAUC", "BinnedXAUCResult", "Coverage", "Errors", "GroupedJSD", "SampleScores"]

State = dict[str, NDArray[Any]]


class _Stream:
    """What every accumulator has: `_fields` names its arrays, `_same` what two of them have to share to be merged."""

    _fields: tuple[str, ...] = ()
    _same: tuple[str, ...] = ()

    def state(self) -> State:
        """Its arrays, copied."""
        return {name: np.array(getattr(self, name)) for name in self._fields}

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Take over a state of an accumulator made with the same arguments.

        Raises:
            ValueError: an array that is missing, or of another shape.
        """
        for name in self._fields:
            if name not in state:
                raise ValueError(f"state: expected {', '.join(self._fields)}, got no {name}")
            old, new = getattr(self, name), np.asarray(state[name])
            if new.ndim != old.ndim or (name not in _RAGGED and new.shape != old.shape):
                raise ValueError(f"state[{name!r}]: expected shape {list(old.shape)}, got {list(new.shape)}")
            setattr(self, name, new.astype(old.dtype))
        return self

    def merge(self, other: Self) -> Self:
        """Add what another accumulator, made with the same arguments, has seen; it stays as it is.

        Raises:
            TypeError, ValueError: another class, or other arguments.
        """
        if type(other) is not type(self):
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        for name in self._same:
            mine, theirs = getattr(self, name), getattr(other, name)
            if not np.array_equal(mine, theirs):
                raise ValueError(f"other: expected the same {name.strip('_')}, {mine}, got {theirs}")
        self._add(other.state())
        return self

    def _add(self, state: State) -> None:
        raise NotImplementedError

    def _need_rows(self, n: Any) -> int:
        if not int(n):
            raise ValueError("result: expected at least one row in all updates, got none")
        return int(n)


_RAGGED = ("_ids", "_counts")  # as many rows as there are groups


def _accumulate(total: NDArray[np.float64], i: int, x: float, low: float = 0.0) -> None:
    """total[i] += x + low, total [n, 2]: a sum and what its roundings lost (Knuth's exact addition)."""
    s = float(total[i, 0])
    new = s + x
    back = new - s
    total[i] = new, float(total[i, 1]) + low + ((s - (new - back)) + (x - back))


class Errors(_Stream):
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
    _same = ("thetas",)

    def __init__(self, thetas: Sequence[float] = ()) -> None:
        self.thetas = tuple(float(t) for t in thetas)
        for t in self.thetas:
            if not t >= 0:
                raise ValueError(f"thetas: expected numbers of at least 0, got {t}")
        self._n = np.zeros((), np.int64)
        self._sums = np.zeros((2, 2))  # |y - p| and (y - p)^2
        self._moments = np.zeros(5)  # means of y and p; sums of squares and products about them
        self._within = np.zeros(len(self.thetas), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        a, b = _chunk(y, prediction)
        if not len(a):
            return self
        c, threads = host_module(), _threads(num_threads)
        if c is None:
            d = np.subtract(*_wide(a, b))
            sums, within = (float(np.abs(d).sum()), float((d * d).sum())), [int((np.abs(d) <= t).sum()) for t in self.thetas]
            moments = _moments(*_wide(a, b))
        else:
            each = [c.errors(a, b, t, threads) for t in self.thetas or (0.0,)]
            sums, within = each[0][:2], [e[2] for e in each][: len(self.thetas)]
            moments = c.moments(a, b, threads)[1:]
        self._add({
            "_n": np.array(len(a)), "_sums": np.array([[s, 0.0] for s in sums]), "_moments": np.array(moments),
            "_within": np.array(within, np.int64),
        })  # fmt: skip
        return self

    def _add(self, state: State) -> None:
        for i, (x, low) in enumerate(state["_sums"]):
            _accumulate(self._sums, i, float(x), float(low))
        self._within = self._within + state["_within"]
        n, m = int(self._n), int(state["_n"])
        if m:  # Chan, Golub and LeVeque
            a, b = self._moments, state["_moments"]
            delta, share = b[:2] - a[:2], n * m / (n + m)
            cross = np.array([delta[0] ** 2, delta[1] ** 2, delta[0] * delta[1]])
            self._moments = np.concatenate((a[:2] + delta * (m / (n + m)), a[2:] + b[2:] + cross * share)) if n else b.copy()
        self._n = np.array(n + m, np.int64)

    def result(self) -> dict[str, float]:
        n = self._need_rows(self._n)
        absolute, square = (float(s[0] + s[1]) for s in self._sums)
        scores = {"mae": absolute / n, "rmse": math.sqrt(square / n), "lcc": correlation(*map(float, self._moments[2:]))}
        return scores | {f"cs@{t:g}": int(w) / n for t, w in zip(self.thetas, self._within, strict=True)}


class Coverage(_Stream):
    """Interval coverage and mean width. ``update(lower [N], upper [N], y [N])``; ``result()``: (share inside, mean width).

    Raises:
        TypeError, ValueError: as `ordkernels.scores.coverage`.

    Example:
        >>> Coverage().update([0, 0], [1, 3], [2, 3]).result()
        (0.5, 2.0)
    """

    _fields = ("_n", "_inside", "_width")

    def __init__(self) -> None:
        self._n, self._inside, self._width = np.zeros((), np.int64), np.zeros((), np.int64), np.zeros((1, 2))

    def update(self, lower: Any, upper: Any, y: Any, *, num_threads: int | None = None) -> Self:
        a = _array("lower", lower, None)
        if not len(a):
            return self
        a, b = _two(a, upper, names=("lower", "upper"))
        _reject_infinite(lower=a, upper=b)
        a, b, t = _floats(a, b, _array("y", y, len(a), other="lower"))
        crossed = a > b
        if crossed.any():
            i = int(crossed.argmax())
            raise ValueError(f"lower: expected at most upper, got {a[i]} above {b[i]} at index {i}")
        c = host_module()
        if c is None:
            inside, width = int(((a <= t) & (t <= b)).sum()), float(np.subtract(*_wide(b, a)).sum())
        else:
            inside, width, _ = c.coverage(a, b, t, _threads(num_threads))
        self._add({"_n": np.int64(len(a)), "_inside": np.int64(inside), "_width": np.array([[width, 0.0]])})  # type: ignore[dict-item]
        return self

    def _add(self, state: State) -> None:
        self._n, self._inside = self._n + state["_n"], self._inside + state["_inside"]
        _accumulate(self._width, 0, *map(float, state["_width"][0]))

    def result(self) -> tuple[float, float]:
        n = self._need_rows(self._n)
        return int(self._inside) / n, float(self._width[0].sum()) / n


class SampleScores(_Stream):
    """Means of CRPS, of a sample, or of the pinball loss of quantiles, per level.

    ``update(samples [N, L], y [N])``. ``result()``: the mean CRPS, or with `levels` the mean losses ``[L]``.

    Args:
        levels: ``[L]`` in [0, 1]: the samples are quantiles at these levels, and the score is the pinball loss.
        fair: of CRPS, as `ordkernels.ops.crps`.

    Raises:
        TypeError, ValueError: shapes that do not match, NaN or infinities, levels outside [0, 1].

    Example:
        >>> SampleScores().update([[0.0, 2.0]], [1.0]).result()
        0.5
        >>> SampleScores(levels=[0.5, 0.75]).update([[1.0, 4.0]], [3.0]).result()
        array([1.  , 0.25])
    """

    _fields = ("_n", "_sums")
    _same = ("levels", "fair")

    def __init__(self, levels: Any = None, fair: bool = False) -> None:
        self.fair = bool(fair)
        self.levels = None if levels is None else _array("levels", levels, None, letters="L").astype(np.float64)
        if self.levels is not None and ((self.levels < 0) | (self.levels > 1)).any():
            i = int(((self.levels < 0) | (self.levels > 1)).argmax())
            raise ValueError(f"levels: expected numbers in [0, 1], got {self.levels[i]} at index {i}")
        self._n = np.zeros((), np.int64)
        self._sums = np.zeros((1 if self.levels is None else len(self.levels), 2))

    def update(self, samples: Any, y: Any) -> Self:
        t = _array("y", y, None)
        s = np.asarray(samples.detach().cpu() if hasattr(samples, "detach") else samples)
        least = 2 if self.fair else 1
        if s.ndim != 2 or s.shape[1] < least or (self.levels is not None and s.shape[1] != len(self.levels)):
            form = f"L at least {least}" if self.levels is None else f"L = {len(self.levels)}, as levels"
            raise ValueError(f"samples: expected [N, L] with {form}, got {list(s.shape)}")
        if len(s) != len(t):
            raise ValueError(f"y: expected shape [N] = [{len(s)}], as samples, got [{len(t)}]")
        _array("samples", s.reshape(-1), None)
        if not len(t):
            return self
        _reject_infinite(samples=s.reshape(-1), y=t)
        d = s.astype(np.float64) - t.astype(np.float64)[:, None]
        if self.levels is None:
            L = d.shape[1]
            d.sort(axis=1)
            lift = (2 * np.arange(L) - (L - 1)) / (L * (L - 1 if self.fair else L))
            each = (d * (np.sign(d) / L - lift)).sum(1, keepdims=True)
        else:
            each = np.maximum(self.levels * -d, (self.levels - 1) * -d)
        # down the rows, which NumPy sums in pairs along the last axis only
        sums = np.ascontiguousarray(each.T).sum(1)
        self._add({"_n": np.array(len(t)), "_sums": np.stack((sums, np.zeros_like(sums)), 1)})
        return self

    def _add(self, state: State) -> None:
        self._n = self._n + state["_n"]
        for i, (x, low) in enumerate(state["_sums"]):
            _accumulate(self._sums, i, float(x), float(low))

    def result(self) -> Any:
        means = self._sums.sum(1) / self._need_rows(self._n)
        return float(means[0]) if self.levels is None else means


class GroupedJSD(_Stream):
    """`ordkernels.scores.histogram_jsd` in chunks: histograms of every group seen so far, 16 M bytes a group.

    ``update(y [N], prediction [N], group [N])``; ``result()``: the mean divergence over groups.

    Args:
        edges, base: as there.

    Example:
        >>> a, b = GroupedJSD(edges=[0, 2, 4]), GroupedJSD(edges=[0, 2, 4])
        >>> a.update([0, 1], [0, 5], [7, 7]).merge(b.update([5], [1], [7])).result()
        0.0
    """

    _fields = ("_ids", "_counts")
    _same = ("edges", "base")

    def __init__(self, edges: Any, base: float = math.e) -> None:
        if not (base > 1 and math.isfinite(base)):
            raise ValueError(f"base: expected a number above 1, got {base}")
        self.edges, self.base = _edges("edges", edges), float(base)
        self._ids, self._counts = np.zeros(0, np.int64), np.zeros((0, 2, len(self.edges) - 1), np.int64)

    def update(self, y: Any, prediction: Any, group: Any, *, num_threads: int | None = None) -> Self:
        a = _array("y", y, None)
        b, g = _array("prediction", prediction, len(a)), _group(group, len(a))
        if not len(a):
            return self
        c = host_module()
        if c is None:
            ids, code = np.unique(g, return_inverse=True)
            M = len(self.edges) - 1
            each = [np.bincount(code * M + np.searchsorted(self.edges[1:-1], x, side="right"), minlength=len(ids) * M) for x in (a, b)]
            counts = np.stack([x.reshape(len(ids), M) for x in each], 1)
        else:
            ids, counts = c.histogram_counts(*_floats(a, b), g, self.edges, _threads(num_threads))
        self._add({"_ids": ids, "_counts": counts})
        return self

    def _add(self, state: State) -> None:
        ids, counts = state["_ids"], state["_counts"]
        fresh = ids[~np.isin(ids, self._ids, assume_unique=True)]
        if len(fresh):
            every = np.sort(np.concatenate((self._ids, fresh)))
            grown = np.zeros((len(every), *self._counts.shape[1:]), np.int64)
            grown[np.searchsorted(every, self._ids)] = self._counts
            self._ids, self._counts = every, grown
        self._counts[np.searchsorted(self._ids, ids)] += counts  # ids are unique

    def result(self) -> float:
        self._need_rows(len(self._ids))
        total = 0.0
        for begin in range(0, len(self._ids), 4096):  # temporaries of a few MB
            part = self._counts[begin : begin + 4096].astype(np.float64)
            total += reference.divergences(part[:, 0], part[:, 1]).sum()
        return float(total / len(self._ids) / math.log(self.base))


class BinnedXAUCResult(NamedTuple):
    """The exact XAUC of all rows is within `bound` of `value`, and between `low` and `high`."""

    value: float
    bound: float
    low: float
    high: float


class BinnedXAUC(_Stream):
    """XAUC from a joint histogram of labels and predictions: mergeable, of any number of rows, with a guaranteed error bound.

    ``update(y [N], prediction [N])``. Pairs in different bins of both are counted exactly. With C concordant and D discordant
    ones of these, T pairs in one bin of the prediction alone and S in one bin of y, which may count or not:
    ``value = (C + T / 2) / (C + D + T)``, and the exact XAUC (ties half) is between ``C / all`` and ``(C + T + S) / all``,
    ``all = C + D + T + S``.

    Args:
        y_edges, prediction_edges: ``[A+1]``, ``[B+1]``, rising, the end bins open: best of near equal mass. 8 A B bytes of memory.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.xauc`; edges that do not rise.

    Example:
        >>> BinnedXAUC([0, 1, 2], [0, 1, 2]).update([0.5, 1.5], [0.1, 1.2]).result()
        BinnedXAUCResult(value=1.0, bound=0.0, low=1.0, high=1.0)
    """

    _fields = ("_joint",)
    _same = ("y_edges", "prediction_edges")

    def __init__(self, y_edges: Any, prediction_edges: Any) -> None:
        self.y_edges, self.prediction_edges = _edges("y_edges", y_edges), _edges("prediction_edges", prediction_edges)
        self._joint = np.zeros((len(self.y_edges) - 1, len(self.prediction_edges) - 1), np.int64)

    def update(self, y: Any, prediction: Any, *, num_threads: int | None = None) -> Self:
        a = _array("y", y, None)
        b = _array("prediction", prediction, len(a))
        c = host_module()
        if c is None:
            at, label = (np.searchsorted(e[1:-1], x, side="right") for e, x in ((self.y_edges, a), (self.prediction_edges, b)))
            np.add.at(self._joint, (at, label), 1)
        else:
            c.joint_counts(*_floats(a, b), self.y_edges, self.prediction_edges, self._joint, _threads(num_threads))
        return self

    def _add(self, state: State) -> None:
        self._joint += state["_joint"]

    def result(self) -> BinnedXAUCResult:
        joint = self._joint
        n = self._need_rows(joint.sum())
        by_y, by_p = joint.sum(1), joint.sum(0)
        same_y, same_p = (int((m * (m - 1) // 2).sum()) for m in (by_y, by_p))
        both = int((joint * (joint - 1) // 2).sum())
        concordant, below = 0, np.zeros(joint.shape[1], np.int64)  # below: rows of lower y, by bins of the prediction
        for row in joint:
            concordant += int((row[1:] * below.cumsum()[:-1]).sum())
            below += row
        every, tied = n * (n - 1) // 2, same_p - both
        certain = every - same_y
        if not every:
            return BinnedXAUCResult(math.nan, math.nan, math.nan, math.nan)
        low, high = concordant / every, (concordant + tied + same_y) / every
        value = (concordant + tied / 2) / certain if certain else 0.5
        return BinnedXAUCResult(value, max(high - value, value - low), low, high)


def _chunk(y: Any, prediction: Any) -> list[NDArray[Any]]:
    """Finite y and prediction of one dtype; a chunk may be empty."""
    a = _array("y", y, None)
    return _finite_pair(a, prediction) if len(a) else _floats(a, _array("prediction", prediction, 0))


def _moments(y: NDArray[np.float64], p: NDArray[np.float64]) -> list[float]:
    a, b = y - y[0], p - p[0]
    u, v = a - a.mean(), b - b.mean()
    return [float(x) for x in (y[0] + a.mean(), p[0] + b.mean(), (u * u).sum(), (v * v).sum(), (u * v).sum())]
