"""Divergence between the histograms of labels and of predictions, per group (PDF-U, PDF-I)."""

import math
from typing import Any

from .._backend import compiled_host, register_host
from .._validation import arrays
from .._validation.numbers import num_threads as _threads
from .._validation.numbers import real
from ..reference import histogram_jsd as reference
from ._inputs import columns

__all__ = ["histogram_jsd"]

register_host("histogram_jsd")


def histogram_jsd(y: Any, prediction: Any, group: Any, *, edges: Any, base: float = math.e, num_threads: int | None = None) -> float:
    """Mean over groups of the Jensen-Shannon divergence between the histograms of y and of prediction (PDF-U, PDF-I).

    ``JSD(p, q) = KL(p | m) / 2 + KL(q | m) / 2`` with ``m = (p + q) / 2``, between 0 and ``log(2) / log(base)``.

    Args:
        y, prediction: ``[N]``.
        group: ``[N]`` integers, any ids (users, items).
        edges: ``[M+1]``, ascending: M bins, closed on the left; the first and the last are open, so no value is lost, infinities
            included.
        base: of the logarithm, above 1.
        num_threads: by default ``ORDKERNELS_NUM_THREADS``, or every core. It changes no result.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN; edges that do not ascend (merge equal ones first), fewer than 2; a
            base up to 1.

    Source: FlowTime (arXiv:2606.01352), section 5.1; open end bins are ours.

    Example:
        >>> histogram_jsd([0, 1, 5], [0, 5, 1], [7, 7, 7], edges=[0, 2, 4])
        0.0
    """
    c = compiled_host("histogram_jsd")
    a, b = columns(y, prediction, nan=c is not None)
    base = check_base(base)
    e, g = arrays.edges("edges", edges), arrays.integers("group", group, length=len(a))
    u, v = arrays.binnable(a, b)
    if c is None:
        return reference.histogram_jsd(u, v, g, e, base)
    total, groups = c.histogram_jsd(u, v, g, e, _threads(num_threads))
    if math.isnan(total):
        columns(a, b)  # raises: a NaN has no bin
    return float(reference.mean_divergence(total, groups, base))


def check_base(base: Any) -> float:
    b = real("base", base)
    if b <= 1:
        raise ValueError(f"base: expected a number above 1, got {b}")
    return b
