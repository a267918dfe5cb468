"""scoringrules' ``crps_ensemble``: finite ensembles without weights, on its NumPy, Numba and torch backends.

``"nrg"``, ``"qd"`` and ``"int"`` are the plain estimator of ``ops.crps``, ``"fair"`` and ``"pwm"`` the fair one, each to rounding. The
original keeps ``"akr"`` and ``"akr_circperm"``, which depend on the order of the members, weights, and calls that need gradients (where
a member equals the observation or another, each estimator has a derivative of its own).
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from .. import ops
from ._ensembles import ensemble_crps
from ._rules import Fallback, function

_PLAIN, _FAIR = ("nrg", "qd", "int"), ("fair", "pwm")
_WIDENING = ("qd", "pwm", "int")  # computed with fp64 ranks in NumPy


@function("scoringrules.crps_ensemble", op="crps")
def crps_ensemble(
    original: Any, obs: Any, fct: Any, m_axis: int = -1, *, ens_w: Any = None, estimator: str = "qd", sorted_ensemble: bool = False,
    backend: Any = None,
) -> Any:  # fmt: skip
    if ens_w is not None:
        return Fallback("weights")
    if estimator not in (*_PLAIN, *_FAIR):
        return Fallback(f"estimator={estimator!r}")
    name = backend or inspect.unwrap(original).__globals__["backends"]._active
    if name == "torch":
        return _of_tensors(obs, fct, m_axis, estimator, sorted_ensemble)
    if name not in ("numpy", "numba"):
        return Fallback(f"backend {name!r}")
    y, samples = np.asarray(obs), np.asarray(fct)
    reason = _unsuitable(y, samples, (np.float32, np.float64))
    if reason is None and backend == "numba" and (not y.ndim or y.dtype != np.float64 or samples.dtype != np.float64):
        reason = "backend 'numba' with numbers, or other than float64"
    if reason is not None:
        return Fallback(reason)
    samples = np.moveaxis(samples, m_axis, -1)
    if y.shape != samples.shape[:-1]:
        return Fallback("shapes that do not match")
    if sorted_ensemble and estimator in _WIDENING and not (samples[..., 1:] >= samples[..., :-1]).all():
        return Fallback("members that are not sorted, declared so")
    dtype = np.float64 if estimator in _WIDENING else y.dtype
    return ensemble_crps(y, samples, dtype, fair=estimator in _FAIR)


def _of_tensors(obs: Any, fct: Any, m_axis: int, estimator: str, sorted_ensemble: bool) -> Any:
    if not (isinstance(obs, torch.Tensor) and isinstance(fct, torch.Tensor)):
        return Fallback("backend 'torch' with values that are no tensors")
    reason = _unsuitable(obs, fct, (torch.float32, torch.float64))
    if reason is None and estimator == "int":
        reason = "estimator 'int' on tensors, whose ranks the original rounds to fp32"
    if reason is None and torch.is_grad_enabled() and (obs.requires_grad or fct.requires_grad):
        reason = "gradients"
    if reason is not None:
        return Fallback(reason)
    samples = fct.moveaxis(m_axis, -1)
    M = samples.shape[-1]
    if obs.shape != samples.shape[:-1] or M < 2 or not obs.numel() or obs.device != fct.device:
        return Fallback("shapes that do not match, or no rows")
    if sorted_ensemble and estimator in _WIDENING and not bool((samples[..., 1:] >= samples[..., :-1]).all()):
        return Fallback("members that are not sorted, declared so")
    if not (bool(obs.isfinite().all()) and bool(samples.isfinite().all())):
        return Fallback("values that are missing or infinite")
    out = ops.crps(samples.reshape(-1, M), obs.reshape(-1), fair=estimator in _FAIR)
    return out.reshape(obs.shape) if bool(out.isfinite().all()) else Fallback("scores that overflow")


def _unsuitable(y: Any, samples: Any, dtypes: tuple[Any, ...]) -> str | None:
    if y.dtype not in dtypes or samples.dtype != y.dtype:  # of mixed ones the original computes a part in fp32
        return f"values of dtype {y.dtype} and {samples.dtype}"
    return None if samples.ndim else "a forecast without members"
