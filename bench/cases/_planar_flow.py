"""What the cases of the three planar flows share: inputs, the flow in plain torch, bytes and operations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops

from . import Size, Target, randn, with_backward

SHAPES: dict[tuple[str, Size], tuple[tuple[int, int, int], ...]] = {  # B, K, D
    ("cpu", "tiny"): ((5, 2, 3),),
    ("cpu", "quick"): ((1024, 4, 64),),
    ("cpu", "full"): ((1024, 4, 64), (65536, 4, 64)),
    ("cuda", "tiny"): ((5, 2, 3),),
    ("cuda", "quick"): ((65536, 4, 64),),
    ("cuda", "full"): ((1024, 4, 64), (1 << 20, 4, 64)),
}


def eager(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The constrained flow as one writes it in torch (unbind, whose backward is far cheaper than indexing's)."""
    wu = (w * u).sum(-1, keepdim=True)
    u = u + (F.softplus(wu) - 1 - wu) * w / (w * w).sum(-1, keepdim=True)
    total: Any = 0
    for uk, wk, bk in zip(u.unbind(-2), w.unbind(-2), b.unbind(-1), strict=True):
        t = torch.tanh((wk * z).sum(-1) + bk)
        z = z + uk * t[..., None]
        total = total + torch.log(torch.abs(1 + (1 - t * t) * (wk * uk).sum(-1)))
    return z, total


def inputs(B: int, K: int, D: int, device: str, shared: bool = False) -> list[Tensor]:
    lead = () if shared else (B,)
    scale = D**-0.5
    return [
        randn(B, D, device=device, seed=1),
        randn(*lead, K, D, device=device, seed=2, scale=scale),
        randn(*lead, K, D, device=device, seed=3, scale=scale),
        randn(*lead, K, device=device, seed=4),
    ]


def expected_flow(args: list[Tensor], grads: list[Tensor] | None = None) -> tuple[Any, ...]:
    doubles = [t.double() for t in args]
    with ordkernels.use_backend("reference"):
        return ops.planar_flow(*doubles) if grads is None else with_backward(ops.planar_flow, doubles, [g.double() for g in grads])()


def at_least(factor: float) -> Target:
    return Target(f"at least {factor:g}x the best baseline", "best baseline", factor)


def forward_bytes(B: int, K: int, D: int) -> int:
    return 4 * (B * K * (2 * D + 1) + 2 * B * D + B)


def backward_bytes(B: int, K: int, D: int) -> int:
    """Parameters read, their gradients written, z and its two gradients, log_det's gradient, and the a_k written and read."""
    return 4 * (2 * B * K * (2 * D + 1) + 3 * B * D + B + 2 * B * K)


def flops(B: int, K: int, D: int) -> float:
    """w.z, w.u, w.w, uhat, z + uhat t: two operations a column each; the scalars of a layer as 30."""
    return float(B * K * (10 * D + 30))
