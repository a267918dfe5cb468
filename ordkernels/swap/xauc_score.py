"""``xauc_score(labels, predictions)`` of evaluation scripts, which are no package: known by its values on small tables.

`swap_in("metrics")` for a module of the user's. What agrees with one of the rules for ties of ``ops.xauc`` on every table is served by
it: ``"reference"`` is the GR authors' script, ``"cwm"`` that of the authors of Counterfactual Watch Time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, get_args

import numpy as np
from torch import Tensor

from ..scores.xauc import Ties, xauc
from ._rules import Fallback, function

_VERIFIED_ROWS = 10_000


@lru_cache
def _ties(original: Any) -> Any:
    """The rule for ties that the function follows, or None. It is run on 40 tables of 2 to 9 rows, with many ties."""
    rng = np.random.default_rng(0)
    possible = set(get_args(Ties))
    for i in range(40):
        y, p = rng.integers(0, 4, (2, 2 + i % 8)).astype(float)
        try:
            value = original(y, p)
        except Exception:  # whatever the stranger raises: it is not one of these
            return None
        if type(value) is not float:
            return None
        possible = {ties for ties in possible if xauc(y, p, ties=ties).value == value}
    return possible.pop() if len(possible) == 1 else None


def _unless(original: Any) -> str | None:
    return None if callable(original) and _ties(original) else "its values are those of no rule for ties of ops.xauc"


def _first_rows(labels: Any, pres: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (labels.reshape(-1)[:_VERIFIED_ROWS], pres.reshape(-1)[:_VERIFIED_ROWS]), {}


@function("*.xauc_score", op="xauc", unless=_unless, smaller=_first_rows)
def xauc_score(original: Any, labels: Any, pres: Any) -> Any:
    if type(labels) not in (np.ndarray, Tensor) or type(pres) not in (np.ndarray, Tensor):
        return Fallback("values that are no arrays or tensors")
    y, p = labels.reshape(-1), pres.reshape(-1)
    if len(y) != len(p) or len(y) < 2:
        return Fallback("fewer than 2 rows, or lengths that differ")
    return xauc(y, p, ties=_ties(original)).value
