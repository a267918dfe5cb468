"""XAUC: the share of pairs that a prediction orders as the labels do."""

import math
from typing import Any, Literal, NamedTuple

from .._backend import compiled_host, forced_backend, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import one_of
from ..reference import xauc as reference
from ._inputs import columns

__all__ = ["XAUCResult", "xauc"]

register_host("xauc", on_device="torch's own sorts")

Counts = tuple[float, float, float]
GroupSums = tuple[int, float, float]


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
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Returns:
        ``XAUCResult(value, concordant, tied_prediction, pairs)``; the value is NaN if no pair counts. Workspace: 16 bytes a row,
        32 where y or the prediction has 64 bits, 48 with weights, and 16 more with groups.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN; weights that are negative or infinite; weight or group with
            ``ties="reference"``.

    Source: FlowTime (arXiv:2606.01352), section 5.1, for ``"strict"``; the evaluation script of "Generative Regression Based Watch
    Time Prediction" for ``"reference"``; Knight, JASA 61 (1966), for the method.

    Example:
        >>> xauc([1.0, 2.0, 3.0], [0.1, 0.3, 0.3])
        XAUCResult(value=0.8333333333333334, concordant=2, tied_prediction=1, pairs=3)
    """
    c = compiled_host("xauc")
    check_options(ties, average)
    if ties == "reference" and (weight is not None or group is not None):
        raise ValueError(f"{'group' if weight is None else 'weight'}: expected None with ties='reference', got an array")
    if forced_backend() is None and _on_device(y, prediction, weight, group):
        from .xauc_device import count

        counts, sums = count(y, prediction, weight, group, ties == "reference")
    else:
        a, b = columns(y, prediction)
        w = None if weight is None else arrays.weights("weight", weight, length=len(a))
        g = None if group is None else arrays.integers("group", group, length=len(a))
        counts, sums = _compiled_counts(c, a, b, w, g, ties, _threads(num_threads)) if c else _reference_counts(a, b, w, g, ties)
    return result(counts, sums if average == "group" else None, ties)


def check_options(ties: Any, average: Any) -> None:
    one_of("ties", ties, ("half", "strict", "reference"))
    one_of("average", average, ("group", "pair"))


def _compiled_counts(c: Any, y: Any, p: Any, w: Any, g: Any, ties: str, threads: int) -> tuple[Counts, GroupSums | None]:
    n, a, b = len(y), arrays.same_order(y), arrays.same_order(p)
    if g is not None:
        found = c.xauc_groups(a, b, w, g, threads)
        return found[:3], found[3:]
    found = c.xauc_counts(a, b, w, ties == "reference", threads)
    return ((*found[:2], n * (n - 1) // 2) if ties == "reference" else found), None


def _reference_counts(y: Any, p: Any, w: Any, g: Any, ties: str) -> tuple[Counts, GroupSums | None]:
    n, found = len(y), reference.xauc_counts(y, p, w, g)
    if ties == "reference":
        found = (reference.reference_pairs(y, p), found[1], n * (n - 1) // 2)
    return found, None if g is None else reference.group_means(y, p, w, g)


def result(counts: Counts, sums: GroupSums | None, ties: str) -> XAUCResult:
    """From (discordant, tied, pairs), or (concordant, tied, pairs) for ``ties="reference"``.

    `sums`: of the groups with a pair, how many, and the sums of their concordant and tied shares of pairs.
    """
    discordant, tied, pairs = counts
    if ties == "reference":
        return XAUCResult(discordant / pairs if pairs else math.nan, discordant, tied, pairs)
    concordant, half = max(pairs - tied - discordant, 0), ties == "half"
    if sums is not None:
        groups, sum_concordant, sum_tied = sums
        value = (sum_concordant + half * sum_tied / 2) / groups if groups else math.nan
    else:
        value = (concordant + half * tied / 2) / pairs if pairs > 0 else math.nan
    return XAUCResult(value, concordant, tied, pairs)


def _on_device(*columns: Any) -> bool:
    """Whether all columns that are not None are tensors on one device other than the CPU."""
    present = [x for x in columns if x is not None]
    if not all(arrays.is_tensor(x) for x in present):
        return False
    devices = {x.device for x in present}
    return len(devices) == 1 and devices.pop().type not in ("cpu", "meta")
