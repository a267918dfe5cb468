"""XAUC: the share of pairs that a prediction orders as the labels do."""

import math
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .._backend import compiled_host, forced_backend, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import one_of
from ..reference import xauc as reference
from ._inputs import columns

__all__ = ["XAUCResult", "xauc"]

register_host("xauc", on_device="torch's own sorts")

Ties = Literal["half", "strict", "reference", "cwm", "torchrec"]
Counts = tuple[Any, Any, Any, Any]  # concordant, tied in the prediction, pairs of different y, tied in both: ints or floats
GroupSums = tuple[int, float, float]  # groups with a pair, the sums of their concordant and tied shares of pairs

_LARGEST = 480  # exponents of 2 within which neither a sum of products of two weights overflows nor a product underflows


class XAUCResult(NamedTuple):
    """value = (concordant + tied_prediction / 2) / pairs for ``ties="half"``; counts are ints, or floats for weighted pairs."""

    value: float
    concordant: float
    tied_prediction: float
    pairs: float


def xauc(
    y: Any,
    prediction: Any,
    *,
    ties: Ties = "half",
    weight: Any = None,
    group: Any = None,
    average: Literal["group", "pair"] = "group",
    num_threads: int | None = None,
) -> XAUCResult:
    """The share of pairs that the prediction orders as y does, exactly, in O(n log n).

    Pairs with ``y_i == y_j`` do not count; a pair with equal predictions counts ``"half"``, or 0 (``"strict"``). Other programs count
    otherwise, over all ``n (n - 1) / 2`` pairs:

    - ``"reference"``: stable sort by prediction, descending; the pairs whose earlier label is greater. Its value depends on the order of
      rows with equal predictions.
    - ``"cwm"``: the same, of the pairs whose earlier label is at least as great; 1 where there is no pair.
    - ``"torchrec"``: pairs in the same order, and those tied in both; 0 where there is no pair. TorchRec counts within each batch: give
      the batch as ``group``, with ``average="pair"``.

    Args:
        y, prediction: ``[N]``, compared as they are: no dtype is rounded. Infinities are values like any other. Tensors on one
            CUDA device are counted there, by torch's sorts.
        weight: ``[N]``, at least 0: a pair counts ``w_i w_j``, to rounding whatever the weights; pairs of weight 0 are none.
        group: ``[N]`` integers, any ids in any order (users): only pairs within a group count, and the counts are over all groups.
        average: with groups, the value is the mean over ``"group"`` of each group's own share, over those with at least one pair;
            or the share of all their pairs together (``"pair"``).
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Returns:
        ``XAUCResult(value, concordant, tied_prediction, pairs)``, for ``"torchrec"`` with the pairs tied in both in place of those
        tied in the prediction; the value is NaN if no pair counts. Workspace: 16 bytes a row,
        32 where y or the prediction has 64 bits, 48 with weights, and 16 more with groups. Positive weights that differ by a factor
        above 1e288 take Python's integers, and much longer.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN; weights that are negative or infinite; weight or group with
            ``ties="reference"`` or ``"cwm"``; groups averaged with ``ties="torchrec"``.

    Source: FlowTime (arXiv:2606.01352), section 5.1, for ``"strict"``; the evaluation script of "Generative Regression Based Watch
    Time Prediction" for ``"reference"``; the evaluation script of "Counteracting Duration Bias in Video Recommendation via
    Counterfactual Watch Time" for ``"cwm"``; ``torchrec.metrics.xauc`` for ``"torchrec"``; Knight, JASA 61 (1966), for the method.

    Example:
        >>> xauc([1.0, 2.0, 3.0], [0.1, 0.3, 0.3])
        XAUCResult(value=0.8333333333333334, concordant=2, tied_prediction=1, pairs=3)
    """
    c = compiled_host("xauc")
    ties, average = options(ties, average)
    in_row_order = ties in ("reference", "cwm")
    if in_row_order and (weight is not None or group is not None):
        raise ValueError(f"{'group' if weight is None else 'weight'}: expected None with ties={ties!r}, got an array")
    if ties == "torchrec" and group is not None and average != "pair":
        raise ValueError(f"average: expected 'pair' with ties='torchrec' and groups, got {average!r}")
    found = _count(c, y, prediction, weight, group, ties, num_threads)
    return result(found.counts, found.sums if average == "group" else None, ties, found.exponent, found.everything)


def pair_counts(y: Any, prediction: Any) -> tuple[int, int, int, int]:
    """The pairs that are concordant; tied in the prediction, of different y; of different y; and tied in both."""
    counts: tuple[int, int, int, int] = _count(compiled_host("xauc"), y, prediction, None, None, "half", None).counts
    return counts


def options(ties: Any, average: Any) -> tuple[Ties, Literal["group", "pair"]]:
    return one_of("ties", ties, get_args(Ties)), one_of("average", average, ("group", "pair"))


class _Found(NamedTuple):
    counts: Counts
    sums: GroupSums | None
    exponent: int  # of the power of 2 that the weights were multiplied by
    everything: Any  # all pairs, where `ties` asks for them


def _count(c: Any, y: Any, prediction: Any, weight: Any, group: Any, ties: str, num_threads: int | None) -> _Found:
    in_row_order, of_all = ties in ("reference", "cwm"), ties not in ("half", "strict")
    if forced_backend() is None and _on_device(y, prediction, weight, group) and (weight is None or _is_ordinary(weight)):
        from .xauc_device import count

        w, g = (None if weight is None else weight.double(), group)
        counts, sums = count(y, prediction, w, g, in_row_order)
        w, g = (None if x is None or not of_all else x.cpu().numpy() for x in (w, g))
        return _Found(counts, sums, 0, all_pairs(len(y), w, g) if of_all else 0)
    a, b = columns(y, prediction)
    w = None if weight is None else arrays.weights("weight", weight, length=len(a))
    g = None if group is None else arrays.integers("group", group, length=len(a))
    exponent = 0
    if w is not None and not _is_ordinary(w):
        w, exponent = _scaled(w)
    if c is None or (w is not None and w.dtype == object):
        counts, sums = _reference_counts(a, b, w, g, in_row_order)
    else:
        counts, sums = _compiled_counts(c, a, b, w, g, in_row_order, _threads(num_threads))
    return _Found(counts, sums, exponent, all_pairs(len(a), w, g) if of_all else 0)


def _is_ordinary(w: Any) -> bool:
    """Whether all positive weights, of an array or a tensor, are within 2^480 either way."""
    positive = w[w > 0]
    return not len(positive) or (float(positive.min()) >= 2.0**-_LARGEST and float(positive.max()) < 2.0**_LARGEST)


def _scaled(w: NDArray[np.float64]) -> tuple[NDArray[Any], int]:
    """Weights times a power of 2, and its exponent: ordinary, or else as integers."""
    mantissa, exponents = np.frexp(w)
    most, least = int(exponents[w > 0].max()), int(exponents[w > 0].min())
    if most - least < 2 * _LARGEST:
        return np.ldexp(w, _LARGEST - most), _LARGEST - most
    whole = np.ldexp(mantissa, 53).astype(np.int64).tolist()
    shifts = np.maximum(exponents - least, 0).tolist()
    return np.array([m << s for m, s in zip(whole, shifts, strict=True)], object), 53 - least


def _compiled_counts(c: Any, y: Any, p: Any, w: Any, g: Any, in_row_order: bool, threads: int) -> tuple[Counts, GroupSums | None]:
    a, b = arrays.same_order(y), arrays.same_order(p)
    if g is not None:
        found = c.xauc_groups(a, b, w, g, threads)
        return found[:4], found[4:]
    return c.xauc_counts(a, b, w, in_row_order, threads), None


def _reference_counts(y: Any, p: Any, w: Any, g: Any, in_row_order: bool) -> tuple[Counts, GroupSums | None]:
    found = reference.xauc_counts(y, p, w, g)
    if in_row_order:
        found = (reference.reference_pairs(y, p), *found[1:])
    return found, None if g is None else reference.group_means(y, p, w, g)


def all_pairs(rows: int, weight: NDArray[Any] | None, group: NDArray[Any] | None) -> Any:
    """The pairs of rows within a group, of any y, or the sum of their w_i w_j, of which nothing is subtracted."""
    if weight is None:
        sizes = [rows] if group is None else np.unique(group, return_counts=True)[1].tolist()
        return sum(n * (n - 1) // 2 for n in sizes)
    if group is None:
        products = weight[1:] * np.cumsum(weight)[:-1]
        return sum(products) if products.dtype == object else float(products.sum())
    order = np.argsort(group, kind="stable")
    groups = np.split(weight[order], np.flatnonzero(np.diff(group[order])) + 1)
    return sum(all_pairs(len(w), w, None) for w in groups)


def result(counts: Counts, sums: GroupSums | None, ties: str, exponent: int = 0, everything: Any = 0) -> XAUCResult:
    """`everything`: all pairs, of any y, which "reference", "cwm" and "torchrec" count."""
    concordant, tied, pairs, tied_both = counts
    if ties == "cwm":
        concordant = concordant + everything - pairs
    elif ties == "torchrec":
        tied = tied_both
    if ties not in ("half", "strict"):
        pairs = everything
    credit = {"half": 1, "torchrec": 2}.get(ties, 0)  # of a tied pair, in halves
    if sums is not None:
        groups, sum_concordant, sum_tied = sums
        value = (sum_concordant + credit * sum_tied / 2) / groups if groups else math.nan
    else:
        value = (2 * concordant + credit * tied) / (2 * pairs) if pairs else {"cwm": 1.0, "torchrec": 0.0}.get(ties, math.nan)
    if exponent:
        concordant, tied, pairs = (_times_power_of_2(x, -2 * exponent) for x in (concordant, tied, pairs))
    return XAUCResult(value, concordant, tied, pairs)


def _times_power_of_2(x: float, exponent: int) -> float:
    try:
        return math.ldexp(x, exponent) if isinstance(x, float) else float(Fraction(x) * Fraction(2) ** exponent)
    except OverflowError:
        return math.inf


def _on_device(*columns: Any) -> bool:
    """Whether all columns that are not None are tensors on one device other than the CPU."""
    present = [x for x in columns if x is not None]
    if not all(arrays.is_tensor(x) for x in present):
        return False
    devices = {x.device for x in present}
    return len(devices) == 1 and devices.pop().type not in ("cpu", "meta")
