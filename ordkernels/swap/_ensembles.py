"""The CRPS of ensembles with any leading dimensions, for the packages that compute it from arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ._rules import Fallback

__all__ = ["ensemble_crps"]


def ensemble_crps(observations: Any, forecasts: Any, dtype: Any, *, fair: bool = False) -> Any:
    """[...] and [..., M] finite floats -> [...] of ``dtype``, which is also that of the computation."""
    M = forecasts.shape[-1]
    if not observations.size or M < 1 or (fair and M < 2):
        return Fallback("no rows, or too few members")
    y, samples = (np.asarray(a, dtype) for a in (observations.reshape(-1), forecasts.reshape(-1, M)))
    if not (np.isfinite(y).all() and np.isfinite(samples).all()):
        return Fallback("values that are missing or infinite")
    out = ops.crps(samples, y, fair=fair)
    if not np.isfinite(out).all():
        return Fallback("scores that overflow")
    return out.reshape(observations.shape)[()]  # a number where the original gives one
