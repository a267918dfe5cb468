"""Scores of predictions: errors, the order of pairs, and distributions of labels. Without torch, unless a tensor comes in.

They take lists, NumPy arrays and torch tensors, in any numeric dtype. Sums run in fp64, in a fixed tree of blocks, and counts in
integers: no result depends on the number of threads. `num_threads` is by default ``ORDKERNELS_NUM_THREADS``, or every core.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _backend
from ._backend import OpInfo, host_choice, host_module, register
from .quantiles import _is_tensor, _threads
from .reference import scores as reference

__all__ = ["XAUCResult", "auc", "coverage", "cumulative_score", "histogram_jsd", "lcc", "mae", "relaimpr", "rmse", "srcc", "xauc"]

_OPS = {
    name: register(OpInfo(name, host=True, on_device="torch's own sorts" if name == "xauc" else ""))
    for name in ("auc", "coverage", "cumulative_score", "histogram_jsd", "lcc", "mae", "rmse", "srcc", "xauc")
}


def _compiled(op: str) -> Any:
    """`_host`, or None for the reference."""
    return host_module() if host_choice(_OPS[op]) == "cpu" else None


class XAUCResult(NamedTuple):
    """value = (concordant + tied_prediction / 2) / pairs for ``ties="half"``; counts are ints, or floats for weighted pairs."""

    value: float
    concordant: float
    tied_prediction: float
    pairs: float


def mae(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Mean absolute error ``mean |y - prediction|``, in the unit of y.

    Args:
        y, prediction: ``[N]``.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN or infinities (how many, and the first).

    Example:
        >>> mae([1.0, 4.0], [2.0, 1.0])
        2.0
    """
    c, (a, b) = _compiled("mae"), _finite_pair(y, prediction)
    return c.errors(a, b, 0.0, _threads(num_threads))[0] / len(a) if c else reference.mae(*_wide(a, b))


def rmse(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Root of the mean squared error ``sqrt(mean (y - prediction)^2)``, in the unit of y.

    Args, Raises: as `mae`.

    Example:
        >>> rmse([1.0, 4.0], [2.0, 11.0])
        5.0
    """
    c, (a, b) = _compiled("rmse"), _finite_pair(y, prediction)
    return math.sqrt(c.errors(a, b, 0.0, _threads(num_threads))[1] / len(a)) if c else reference.rmse(*_wide(a, b))


def cumulative_score(y: Any, prediction: Any, theta: float, *, num_threads: int | None = None) -> float:
    """CS@theta: the share of rows with ``|y - prediction| <= theta``.

    Args:
        y, prediction: ``[N]``; theta: at least 0, in the unit of y.

    Raises:
        TypeError, ValueError: as `mae`; a negative or NaN theta.

    Example:
        >>> cumulative_score([20, 30, 40], [22, 36, 40], theta=5)
        0.6666666666666666
    """
    c = _compiled("cumulative_score")
    if not theta >= 0:
        raise ValueError(f"theta: expected a number of at least 0, got {theta}")
    a, b = _finite_pair(y, prediction)
    return (
        c.errors(a, b, theta, _threads(num_threads))[2] / len(a)
        if c
        else reference.cumulative_score(a.astype(np.float64), b.astype(np.float64), theta)
    )


def lcc(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Pearson's linear correlation; NaN where either side is constant. Args, Raises: as `mae`.

    Example:
        >>> round(lcc([1, 2, 3], [2, 4, 6]), 12)
        1.0
    """
    c, (a, b) = _compiled("lcc"), _finite_pair(y, prediction)
    return correlation(*c.moments(a, b, _threads(num_threads))[3:]) if c else reference.lcc(*_wide(a, b))


def correlation(yy: float, pp: float, yp: float) -> float:
    """Of sums of squares and products about the means; NaN where either column is constant."""
    scale = math.sqrt(yy) * math.sqrt(pp)
    return max(-1.0, min(1.0, yp / scale)) if scale > 0 else math.nan


def srcc(y: Any, prediction: Any, *, num_threads: int | None = None) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where either side is constant. Infinities are values
    like any other. Args, Raises: as `mae`.

    Example:
        >>> round(srcc([1, 2, 3], [1, 10, 100]), 12)
        1.0
    """
    c, (a, b) = _compiled("srcc"), _two(y, prediction)
    return c.srcc(_ordered(a), _ordered(b), _threads(num_threads)) if c else reference.srcc(a, b)


def xauc(
    y: Any,
    prediction: Any,
    *,
    ties: Literal["half", "strict", "reference"] = "half",
    weight: Any = None,
    group: Any = None,
    average: Literal["group", "pair"] = "group",
    num_threads: int | None = None,
) -> XAUCResult:
    """The share of pairs that the prediction orders as y does, exactly, in O(n log n).

    Pairs with ``y_i == y_j`` do not count; a pair with equal predictions counts ``"half"``, or 0 (``"strict"``).
    ``ties="reference"``: stable sort by prediction, descending; the pairs whose earlier label is strictly greater, over all
    ``n (n - 1) / 2``. Its value depends on the order of rows with equal predictions.

    Args:
        y, prediction: ``[N]``, compared as they are: no dtype is rounded. Infinities are values like any other. Tensors on one
            CUDA device are counted there, by torch's sorts.
        weight: ``[N]``, at least 0: a pair counts ``w_i w_j``.
        group: ``[N]`` integers, any ids in any order (users): only pairs within a group count, and the counts are over all groups.
        average: with groups, the value is the mean over ``"group"`` of each group's own share, over those with at least one pair;
            or the share of all their pairs together (``"pair"``).

    Returns:
        ``XAUCResult(value, concordant, tied_prediction, pairs)``; the value is NaN if no pair counts. Workspace: 16 bytes a row,
        32 where y or the prediction has 64 bits, 48 with weights, and 16 more with groups.

    Raises:
        TypeError, ValueError: as `mae`; weights that are negative or infinite; weight or group with ``ties="reference"``.

    Source: FlowTime (arXiv:2606.01352), section 5.1, for ``"strict"``; the evaluation script of "Generative Regression Based Watch
    Time Prediction" for ``"reference"``; Knight, JASA 61 (1966), for the method.

    Example:
        >>> xauc([1.0, 2.0, 3.0], [0.1, 0.3, 0.3])
        XAUCResult(value=0.8333333333333334, concordant=2, tied_prediction=1, pairs=3)
    """
    c = _compiled("xauc")
    if ties not in ("half", "strict", "reference"):
        raise ValueError(f"ties: expected 'half', 'strict' or 'reference', got {ties!r}")
    if average not in ("group", "pair"):
        raise ValueError(f"average: expected 'group' or 'pair', got {average!r}")
    if ties == "reference" and (weight is not None or group is not None):
        raise ValueError(f"{'group' if weight is None else 'weight'}: expected None with ties='reference', got an array")
    if _backend.forced_backend() is None and _on_cuda(y, prediction, weight, group):
        from .ops import _pairs

        found, means = _pairs.count(y, prediction, weight, group, ties == "reference")
        return _xauc_result(found, means if average == "group" else None, ties)
    a, b = _two(y, prediction)
    w = None if weight is None else _weight(weight, len(a))
    g = None if group is None else _group(group, len(a))
    n, means = len(a), None
    if c is None:
        found = reference.xauc_counts(a, b, w, g)
        if g is not None:
            means = reference.group_means(a, b, w, g)
        if ties == "reference":
            found = (reference.reference_pairs(a, b), found[1], n * (n - 1) // 2)
    else:
        a, b, threads = _ordered(a), _ordered(b), _threads(num_threads)
        if g is None:
            found = c.xauc_counts(a, b, w, ties == "reference", threads)
            if ties == "reference":
                found = (*found[:2], n * (n - 1) // 2)
        else:
            found = c.xauc_groups(a, b, w, g, threads)
            found, means = found[:3], found[3:]
    return _xauc_result(found, means if average == "group" else None, ties)


def _xauc_result(found: tuple[float, float, float], means: tuple[int, float, float] | None, ties: str) -> XAUCResult:
    """Of (discordant, tied, pairs), for the reference's ties (concordant, tied, pairs); and the groups' shares."""
    discordant, tied, pairs = found
    if ties == "reference":
        return XAUCResult(discordant / pairs if pairs else math.nan, discordant, tied, pairs)
    concordant, half = max(pairs - tied - discordant, 0), ties == "half"
    if means is not None:
        groups, sum_concordant, sum_tied = means
        value = (sum_concordant + half * sum_tied / 2) / groups if groups else math.nan
    else:
        value = (concordant + half * tied / 2) / pairs if pairs > 0 else math.nan
    return XAUCResult(value, concordant, tied, pairs)


def auc(y: Any, prediction: Any, *, weight: Any = None, num_threads: int | None = None) -> float:
    """Area under the ROC curve: of the pairs of a positive and a negative, the share where the positive scores higher (ties: half).

    Args:
        y: ``[N]``, 0 or 1, both there; prediction: ``[N]`` scores; weight: ``[N]``, at least 0.

    Raises:
        TypeError, ValueError: as `xauc`; labels that are not 0 and 1.

    Example:
        >>> auc([0, 1, 1], [0.2, 0.1, 0.9])
        0.5
    """
    _compiled("auc")
    a, b = _two(y, prediction)
    odd = (a != 0) & (a != 1)
    if odd.any():
        raise ValueError(f"y: expected labels 0 and 1, got {float(a[odd][0])} at index {int(odd.argmax())}")
    if a.min() == a.max():
        raise ValueError(f"y: expected both labels 0 and 1, got only {a[0]:g}")
    return xauc(a, b, weight=weight, num_threads=num_threads).value


def relaimpr(measured: float, base: float) -> float:
    """RelaImpr: ``(measured - 0.5) / (base - 0.5) - 1`` of two AUCs, as a fraction (0.02 is 2 %).

    Raises:
        ValueError: a base of 0.5, whose improvement has no scale.

    Example:
        >>> round(relaimpr(0.72, 0.70), 6)
        0.1
    """
    if base == 0.5:
        raise ValueError("base: expected an AUC other than 0.5, got 0.5")
    return (measured - 0.5) / (base - 0.5) - 1


def histogram_jsd(y: Any, prediction: Any, group: Any, *, edges: Any, base: float = math.e, num_threads: int | None = None) -> float:
    """Mean over groups of the Jensen-Shannon divergence between the histograms of y and of prediction (PDF-U, PDF-I).

    ``JSD(p, q) = KL(p | m) / 2 + KL(q | m) / 2`` with ``m = (p + q) / 2``, between 0 and ``log(2) / log(base)``.

    Args:
        y, prediction: ``[N]``; group: ``[N]`` integers, any ids (users, items).
        edges: ``[M+1]``, rising: M bins, closed on the left; the first and the last are open, so no value is lost, infinities
            too.
        base: of the logarithm, above 1.

    Raises:
        TypeError, ValueError: as `mae`; edges that do not rise (merge equal ones first), fewer than 2; a base up to 1.

    Source: FlowTime (arXiv:2606.01352), section 5.1; open end bins are ours.

    Example:
        >>> histogram_jsd([0, 1, 5], [0, 5, 1], [7, 7, 7], edges=[0, 2, 4])
        0.0
    """
    c = _compiled("histogram_jsd")
    a, b = _two(y, prediction, nan=c is not None)
    if not (base > 1 and math.isfinite(base)):
        raise ValueError(f"base: expected a number above 1, got {base}")
    e, g = _edges("edges", edges), _group(group, len(a))
    if c is None:
        return reference.histogram_jsd(a, b, g, e, base)
    total, groups = c.histogram_jsd(*_floats(a, b), g, e, _threads(num_threads))
    if math.isnan(total):
        _two(a, b)  # raises: a NaN has no bin
    return total / groups / math.log(base)


def coverage(lower: Any, upper: Any, y: Any, *, num_threads: int | None = None) -> tuple[float, float]:
    """The share of rows with ``lower <= y <= upper``, and the intervals' mean width.

    Args:
        lower, upper, y: ``[N]``.

    Raises:
        TypeError, ValueError: as `mae`; a lower end above its upper end.

    Example:
        >>> coverage([0, 0], [1, 3], [2, 3])
        (0.5, 2.0)
    """
    c = _compiled("coverage")
    a, b = _two(lower, upper, names=("lower", "upper"))
    t = _array("y", y, len(a), other="lower")
    _reject_infinite(lower=a, upper=b)
    a, b, t = _floats(a, b, t)
    crossed = a > b
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError(f"lower: expected at most upper, got {a[i]} above {b[i]} at index {i}")
    if c is None:
        return reference.coverage(*_wide(a, b, t))
    inside, width, _ = c.coverage(a, b, t, _threads(num_threads))
    return inside / len(a), width / len(a)


# ----------------------------------------------------------------------------------------------------- checks


def _two(y: Any, prediction: Any, *, names: tuple[str, str] = ("y", "prediction"), nan: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    a = _array(names[0], y, None, nan=nan)
    if not len(a):
        raise ValueError(f"{names[0]}: expected at least one row, got none")
    return a, _array(names[1], prediction, len(a), other=names[0], nan=nan)


def _finite_pair(y: Any, prediction: Any) -> list[NDArray[Any]]:
    a, b = _two(y, prediction)
    _reject_infinite(y=a, prediction=b)
    return _floats(a, b)


def _array(name: str, x: Any, rows: int | None, *, other: str = "y", letters: str = "N", nan: bool = False) -> NDArray[Any]:
    """A numeric array of one dimension without NaN (unless the caller looks for it), in this machine's byte order."""
    if _is_tensor(x):
        x = x.detach().cpu().resolve_neg()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        a = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name}: expected shape [{letters}], got {type(x).__name__} ({error})") from None
    if a.ndim != 1:
        raise ValueError(f"{name}: expected shape [{letters}], got {list(a.shape)}")
    if a.dtype.kind not in "iufb":
        raise TypeError(f"{name}: expected numbers, got {a.dtype}")
    if rows is not None and len(a) != rows:
        raise ValueError(f"{name}: expected shape [N] = [{rows}], as {other}, got [{len(a)}]")
    if not nan and a.dtype.kind == "f" and len(a) and np.isnan(a.min()):  # the minimum of anything with a NaN is NaN
        bad = np.isnan(a)
        raise ValueError(f"{name}: expected no NaN, got {bad.sum()} of {a.size}, the first at index {bad.argmax()}")
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _reject_infinite(**named: NDArray[Any]) -> None:
    for name, a in named.items():
        if a.dtype.kind == "f" and not (np.isfinite(a.min()) and np.isfinite(a.max())):
            bad = np.isinf(a)
            i = int(bad.argmax())
            raise ValueError(f"{name}: expected finite numbers, got {a[i]} at index {i}, and {bad.sum()} of {a.size} infinite in all")


def _group(group: Any, rows: int) -> NDArray[np.int64]:
    a = _array("group", group, rows)
    if a.dtype.kind not in "iu":
        raise TypeError(f"group: expected integers, got {a.dtype}")
    return np.ascontiguousarray(a).view(np.int64) if a.dtype == np.uint64 else np.ascontiguousarray(a, np.int64)


def _weight(weight: Any, rows: int) -> NDArray[np.float64]:
    w = np.ascontiguousarray(_array("weight", weight, rows), np.float64)
    if (w < 0).any():
        raise ValueError(f"weight: expected numbers of at least 0, got {w[w < 0][0]} at index {int((w < 0).argmax())}")
    _reject_infinite(weight=w)
    return w


def _edges(name: str, edges: Any) -> NDArray[np.float64]:
    e = np.ascontiguousarray(_array(name, edges, None, letters="M+1"), np.float64)
    if len(e) < 2:
        raise ValueError(f"{name}: expected at least 2, got {len(e)}")
    flat = ~(e[1:] > e[:-1])
    if flat.any():
        i = int(flat.argmax()) + 1
        raise ValueError(f"{name}: expected rising numbers, got {e[i]} at index {i} after {e[i - 1]}")
    return e


def _floats(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """All float32 where that holds each exactly, else all float64."""
    narrow = all(np.can_cast(a.dtype, np.float32) for a in arrays)
    return [np.ascontiguousarray(a, np.float32 if narrow else np.float64) for a in arrays]


def _wide(*arrays: NDArray[Any]) -> list[NDArray[np.float64]]:
    return [a.astype(np.float64) for a in arrays]


def _ordered(a: NDArray[Any]) -> NDArray[Any]:
    """float32, float64, int32 or int64 of the same order."""
    if a.dtype == np.uint64:
        return np.ascontiguousarray(a ^ np.uint64(1 << 63)).view(np.int64)
    for wide in (np.int32, np.int64) if a.dtype.kind in "biu" else (np.float32,):
        if np.can_cast(a.dtype, wide):
            return np.ascontiguousarray(a, wide)
    return np.ascontiguousarray(a, np.float64)


def _on_cuda(*given: Any) -> bool:
    """Are y and the prediction tensors on one device other than the CPU, and the rest there or absent?"""
    if not all(_is_tensor(x) for x in given if x is not None):
        return False
    devices = {x.device for x in given if x is not None}
    return len(devices) == 1 and devices.pop().type != "cpu"
