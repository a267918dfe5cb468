"""``scipy.stats.kendalltau``: tau-b and tau-c with their p-value, from exact counts of pairs by our kernel.

The formulas after the counts are the original's, in its order, so that results are equal to the last bit. The original serves exact
p-values (up to 33 rows without ties, or at most one discordant or concordant pair), missing values, a constant side and masked arrays.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from ..scores.xauc import pair_counts
from ._rules import Fallback, function

_EXACT = 2**53


def _unless(original: Any) -> str | None:
    inner = inspect.unwrap(original)
    names = set(getattr(getattr(inner, "__code__", None), "co_names", ()))
    return None if {"_kendall_dis", "SignificanceResult"} <= names else "another structure than of scipy 1.11 to 1.17"


@function("scipy.stats.kendalltau", op="kendall_tau", unless=_unless)
def kendalltau(
    original: Any, x: Any, y: Any, *, nan_policy: str = "propagate", method: str = "auto", variant: str = "b",
    alternative: str = "two-sided", **others: Any,
) -> Any:  # fmt: skip
    if others or nan_policy not in ("propagate", "omit", "raise") or variant not in ("b", "c") or method not in ("auto", "asymptotic"):
        return Fallback("exact p-values, axis or keepdims, or options of other values")
    if alternative not in _P_VALUES:
        return Fallback("options of other values")
    a, b = _ranked(x), _ranked(y)
    if a is None or b is None or a.size != b.size or a.size < 3:
        return Fallback("values that are no plain array of numbers, or fewer than 3")
    if a.dtype != b.dtype and (_is_beyond_fp64(a) or _is_beyond_fp64(b)):
        return Fallback("integers that fp64 rounds, beside another dtype")
    if any(z.dtype.kind == "f" and np.isnan(z).any() for z in (a, b)):
        return Fallback("missing values")
    return _result(a, b, method, variant, alternative, inspect.unwrap(original).__globals__["SignificanceResult"])


def _ranked(x: Any) -> Any:
    """A flat array of real numbers; None for what the original treats otherwise."""
    if type(x) not in (np.ndarray, list, tuple) and type(x).__module__.split(".")[0] != "pandas":
        return None
    array = np.asarray(x)
    return array.ravel() if array.ndim and array.dtype.kind in "iuf" and array.dtype.itemsize in (4, 8) else None


def _is_beyond_fp64(a: Any) -> bool:
    return bool(a.dtype.kind in "iu" and a.dtype.itemsize == 8 and ((a > _EXACT) | (a < -_EXACT)).any())


def _result(x: Any, y: Any, method: str, variant: str, alternative: str, result_type: Any) -> Any:
    size = x.size
    total = size * (size - 1) // 2
    concordant, tied_x_alone, different_y, tied_both = pair_counts(y, x)
    tied_x, tied_y = tied_x_alone + tied_both, total - different_y
    if tied_x == total or tied_y == total:
        return Fallback("a constant side")
    discordant = different_y - concordant - tied_x_alone
    if method == "auto" and tied_x == tied_y == 0 and (size <= 33 or min(discordant, total - discordant) <= 1):
        return Fallback("exact p-values")
    difference = total - tied_x - tied_y + tied_both - 2 * discordant
    classes_x, x0, x1 = _ties(x, tied_x)
    classes_y, y0, y1 = _ties(y, tied_y)
    if variant == "b":
        tau: Any = difference / np.sqrt(total - tied_x) / np.sqrt(total - tied_y)
    else:
        classes = min(classes_x, classes_y)
        tau = 2 * difference / (size**2 * (classes - 1) / classes)
    tau = np.minimum(1.0, max(-1.0, tau))
    m = size * (size - 1.0)
    variance = (m * (2 * size + 5) - x1 - y1) / 18 + (2 * tied_x * tied_y) / m + x0 * y0 / (9 * m * (size - 2))
    result = result_type(tau[()], _P_VALUES[alternative](difference / np.sqrt(variance))[()])
    result.correlation = tau[()]
    return result


def _ties(x: Any, tied: int) -> tuple[int, int, int]:
    """Distinct values, and two sums over groups of equal ones, of the p-value's variance."""
    if not tied:
        return len(x), 0, 0
    all_counts = np.unique(x, return_counts=True)[1]
    n = all_counts[all_counts > 1].astype(np.int64)
    return len(all_counts), int((n * (n - 1.0) * (n - 2)).sum()), int((n * (n - 1.0) * (2 * n + 5)).sum())


def _normal_cdf(z: Any) -> Any:
    from scipy.special import ndtr

    return ndtr(z)


_P_VALUES = {
    "less": _normal_cdf,
    "greater": lambda z: _normal_cdf(-z),
    "two-sided": lambda z: 2 * _normal_cdf(-np.abs(z)),
}
