"""pandas' ``groupby(...).quantile``: its own handling of keys, columns and dtypes, around ``quantiles.segment_quantiles``.

The original serves other interpolations than linear, and columns of fp32 (it interpolates in fp32), of infinite values (between two of
them it gives NaN), of integers that fp64 rounds, and of nullable and other extension dtypes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ..quantiles import segment_quantiles
from ._borrow import with_globals
from ._rules import Fallback, function

_EXACT = 2**52  # of integers above, fp64 rounds differences


def _unless(original: Any) -> str | None:
    if "libgroupby" not in getattr(getattr(original, "__code__", None), "co_names", ()):
        return "another structure than of pandas 2 and 3"
    return None if hasattr(original.__globals__.get("libgroupby"), "group_quantile") else "it has no group_quantile"


@function("pandas.core.groupby.groupby.GroupBy.quantile", op="segment_quantiles", unless=_unless)
def quantile(original: Any, self: Any, q: Any = 0.5, interpolation: str = "linear", numeric_only: bool = False) -> Any:
    if interpolation != "linear":
        return Fallback(f"interpolation={interpolation!r}")
    theirs = original.__globals__["libgroupby"].group_quantile
    reasons: list[str | None] = []  # of each block of columns

    def group_quantile(out: Any, values: Any, labels: Any, mask: Any, qs: Any, interpolation: Any, **others: Any) -> None:
        reasons.append(_serve(out, values, mask, qs, **others))
        if reasons[-1] is not None:
            theirs(out, values, labels, mask, qs, interpolation, **others)

    result = with_globals(original, libgroupby=SimpleNamespace(group_quantile=group_quantile))(self, q, interpolation, numeric_only)
    left = [reason for reason in reasons if reason is not None] if reasons else ["no columns of plain numbers"]
    return Fallback(left[0], result) if left else result


def _serve(
    out: Any, values: Any, mask: Any, qs: Any, starts: Any, ends: Any, result_mask: Any = None, is_datetimelike: bool = False
) -> str | None:
    """Fill ``out [G, L]`` of the groups' ``values[starts[g]:ends[g]]`` where ``mask`` is false, or say why not."""
    kind = values.dtype.kind
    if (
        result_mask is not None or is_datetimelike or values.dtype not in (np.float64, np.int64, np.uint64)
    ):  # differences of narrower integers wrap around
        return f"values of dtype {values.dtype}"
    if kind in "iu" and values.size and max(int(values.max()), -int(values.min())) > _EXACT:
        return "integers that fp64 rounds"
    if not ((qs >= 0) & (qs <= 1)).all():
        return "levels outside [0, 1]"
    sizes = ends - starts
    offsets = np.append(0, np.cumsum(sizes))
    if offsets[-1] != len(values) or (starts != offsets[:-1])[sizes > 0].any():
        return "groups that are not one after another"
    missing = np.asarray(mask).view(bool)
    if missing.any():
        offsets = offsets - np.append(0, np.cumsum(missing))[offsets]
        values = values[~missing]
    if kind == "f" and not np.isfinite(values).all():
        return "infinite values"
    out[:] = segment_quantiles(values, offsets, qs)
    return None
