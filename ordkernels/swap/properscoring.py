"""properscoring's ``crps_ensemble``: finite ensembles without weights.

With Numba the original integrates the empirical distribution function of the sorted members in fp64; without, it averages over all
pairs of members, in the inputs' dtype. Both are the plain estimator of ``ops.crps``.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from ._ensembles import ensemble_crps
from ._rules import Fallback, function

_EXACT = 2.0**52  # of larger integers fp64 rounds the differences


@function("properscoring.crps_ensemble", op="crps")
def crps_ensemble(original: Any, observations: Any, forecasts: Any, weights: Any = None, issorted: bool = False, axis: int = -1) -> Any:
    if weights is not None:
        return Fallback("weights")
    y, samples = np.asarray(observations), np.asarray(forecasts)
    for a in (y, samples):
        if not (a.dtype in (np.float32, np.float64) or (a.dtype == np.int64 and (np.abs(a) < _EXACT).all())):
            return Fallback(f"values of dtype {a.dtype}")
    if not samples.ndim or y.shape == samples.shape:
        return Fallback("a forecast without members")
    samples = np.moveaxis(samples, axis, -1)
    if y.shape != samples.shape[:-1]:
        return Fallback("shapes that do not match")
    if issorted and not (samples[..., 1:] >= samples[..., :-1]).all():
        return Fallback("members that are not sorted, declared so")
    if not _is_vectorized(original):
        return ensemble_crps(y, samples, np.float64)
    if y.dtype != samples.dtype and np.float32 in (y.dtype, samples.dtype):
        return Fallback("dtypes of which the original computes a part in fp32")
    return ensemble_crps(y, samples, np.result_type(y, samples, np.float32))


def _is_vectorized(original: Any) -> bool:
    """Whether the original runs without Numba: then fp32 stays fp32."""
    core = inspect.unwrap(original).__globals__.get("_crps_ensemble_core")
    return inspect.isfunction(core)
