"""normflows' Planar layer: one call of ``ops.planar_flow``, and the inverse that it has not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._rules import Fallback, rule


def _unless(layer: Any) -> str | None:
    if layer.act != "tanh":
        return f"act={layer.act!r}"
    if layer.u.shape != layer.w.shape or layer.w.shape[:1] != (1,) or layer.b.numel() != 1:
        return f"parameters of shapes {list(layer.u.shape)}, {list(layer.w.shape)}, {list(layer.b.shape)}, expected one layer's"
    return None


@rule("normflows.flows.planar.Planar", op="planar_flow", unless=_unless)
class _Planar:
    u: Tensor
    w: Tensor
    b: Tensor

    def forward(self, z: Tensor) -> Any:
        return _flow(self, z, ops.planar_flow)

    def inverse(self, z: Tensor) -> Any:
        found = _flow(self, z, ops.planar_flow_inverse)
        return found if isinstance(found, Fallback) else (found[0], -found[1])


def _flow(layer: Any, z: Tensor, op: Any) -> Any:
    u, w, b = layer.u, layer.w, layer.b
    if z.dim() != w.dim() or z.shape[1:] != w.shape[1:]:
        return Fallback(f"z of shape {list(z.shape)}, expected [B, {', '.join(map(str, w.shape[1:]))}]")
    if z.dtype in (torch.bfloat16, torch.float16) and u.dtype == torch.float32:  # from autocast layers; the original promotes them too
        z = z.float()
    if z.dtype != u.dtype or not z.is_floating_point():
        return Fallback(f"z of {z.dtype} and parameters of {u.dtype}")
    D = w.numel()
    out, log_det = op(z.reshape(-1, D), u.view(1, D), w.view(1, D), b.view(1))
    return out.view(z.shape), log_det.to(z.dtype)
