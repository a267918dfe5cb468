"""Pyro's Planar and ConditionalPlanar: one call of ``ops.planar_flow``, and an inverse of any value, not only of the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._install import adopt, original
from ._rules import Fallback, makes_swapped, rule

_MODULE = "pyro.distributions.transforms.planar"


class _Transform:
    """``_call`` and ``_inverse`` of their transforms, which cache the log-determinant of the last pair."""

    _params: Any
    _cached_logDetJ: Tensor | None  # noqa: N815

    def _call(self, x: Tensor) -> Any:
        return self._run(x, ops.planar_flow)

    def _inverse(self, y: Tensor) -> Any:
        return self._run(y, ops.planar_flow_inverse)

    def _run(self, x: Tensor, op: Callable[..., tuple[Tensor, Tensor]]) -> Any:
        b, u, w = self._params() if callable(self._params) else self._params
        D, batch = x.shape[-1], u.shape[:-1]
        if not (x.dtype == u.dtype == w.dtype == b.dtype and x.is_floating_point()):
            return Fallback(f"x of {x.dtype} and parameters of {u.dtype}")
        one = batch.numel() == 1 and len(batch) < x.dim()  # one row of parameters for all of x
        rows_match = len(batch) < x.dim() and tuple(x.shape[x.dim() - 1 - len(batch) : -1]) == batch
        if u.shape != w.shape or u.shape[-1] != D or b.shape != (*batch, 1) or not (one or rows_match):
            return Fallback(f"x of shape {list(x.shape)} and parameters of shapes {[list(t.shape) for t in (b, u, w)]} broadcast")
        if one:
            out, log_det = op(x.reshape(-1, D), u.reshape(1, D), w.reshape(1, D), b.reshape(1))
        else:
            rows = batch.numel()
            z = x.reshape(-1, rows, D).transpose(0, 1)  # [B, N, D]: the N samples of a row share its parameters
            z = z[:, 0] if z.shape[1] == 1 else z
            out, log_det = op(z, u.reshape(rows, 1, D), w.reshape(rows, 1, D), b.reshape(rows, 1))
            if z.dim() == 3:
                out, log_det = out.transpose(0, 1), log_det.transpose(0, 1)
        self._cached_logDetJ = log_det.reshape(x.shape[:-1]).to(x.dtype)
        return out.reshape(x.shape)


def _outputs(transform: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return y, transform._cached_logDetJ


def _copy(transform: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """With its parameters as they are now: a hypernetwork's cannot be copied with their graph."""
    params = transform._params() if callable(transform._params) else transform._params
    return type(transform)._swap_original(tuple(convert(p) for p in params))


@rule(f"{_MODULE}.ConditionedPlanar", op="planar_flow", relies_on=("u_hat", "log_abs_det_jacobian"), outputs=_outputs, copy=_copy)
class _Conditioned(_Transform):
    pass


@rule(f"{_MODULE}.Planar", op="planar_flow", relies_on=("u_hat", "log_abs_det_jacobian"), outputs=_outputs)
class _Planar(_Transform):
    pass


@rule(f"{_MODULE}.ConditionalPlanar", op="planar_flow")
class _Conditional:
    @makes_swapped
    def condition(self, context: torch.Tensor) -> Any:
        return adopt(self, original(self).condition(context))
