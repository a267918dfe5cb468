"""Order-preserving aggregation of increments in plain torch: the definition of ``nested_min``.

``a_k = clip(v_k, 0, w_k)``, ``vbar_k = min(a_k, C - sum_{j<k} vbar_j)``, ``yhat = sum_k vbar_k``.

The gradient of clip is torch.clamp's: ties with 0 and w_k pass it. That of the minimum is stated by `torch.where`, since
`torch.minimum` would halve it at ties: from the first k where the sum reaches C, a tie included, the cap's branch holds. A NaN
counts as reaching C: from there on the row is NaN, and its gradients are those of a row that reaches C there.
"""

import math

import torch
from torch import Tensor

from ._common import compute_dtype
from ._increments import clip


def nested_min(increments: Tensor, widths: Tensor, capacity: Tensor | None = None, cap: float = math.inf) -> tuple[Tensor, Tensor]:
    """increments [B,K], widths [K] | [B,K], capacity [B] or the number cap -> value [B], clipped [B,K]."""
    dtype = compute_dtype(increments)
    a = clip(increments.to(dtype), widths.to(dtype))
    if capacity is None and cap == math.inf:
        return a.sum(1).to(increments.dtype), a.to(increments.dtype, copy=True)
    C = torch.full_like(a[:, 0], cap) if capacity is None else capacity.to(dtype)
    S, done, parts = torch.zeros_like(C), torch.zeros_like(C, dtype=torch.bool), []
    for a_k in a.unbind(1):
        left = C - S
        reached = ~done & ~(a_k < left)  # NaN counts as reached and stays
        left = torch.where(a_k == a_k, left, left + a_k.detach())
        parts.append(torch.where(reached, left, torch.where(done, torch.where(S == S, 0.0, S.detach()), a_k)))
        S = torch.where(reached, torch.where(left == left, C, C + left.detach()), torch.where(done, S, S + a_k))
        done = done | reached
    return S.to(increments.dtype), torch.stack(parts, 1).to(increments.dtype)


def nested_min_backward(
    increments: Tensor, widths: Tensor, capacity: Tensor | None, g_value: Tensor | None, g_clipped: Tensor | None,
    cap: float = math.inf, grad_mask: int = 7,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of increments, widths (empty if bit 1 of grad_mask is off) and capacity (empty without one)."""
    dtype = compute_dtype(increments)
    v, w = increments.to(dtype), widths.to(dtype)
    a = clip(v, w)
    C = torch.full_like(a[:, 0], cap) if capacity is None else capacity.to(dtype)
    gv = torch.zeros_like(a) if g_clipped is None else g_clipped.to(dtype)
    gy = torch.zeros_like(C) if g_value is None else g_value.to(dtype)
    K = a.shape[1]
    S, first = torch.zeros_like(C), torch.full_like(C, K, dtype=torch.long)  # where the cap is reached; K: nowhere
    if capacity is not None or cap != math.inf:
        for k, a_k in enumerate(a.unbind(1)):
            first = torch.where((first == K) & ~(a_k < C - S), k, first)
            S = S + a_k
    capped = first < K
    at_cap = torch.where(capped, gv.gather(1, first.clamp(max=K - 1)[:, None])[:, 0], 0.0)
    ga = gv + torch.where(capped, -at_cap, gy)[:, None]
    ga = torch.where(torch.arange(K, device=v.device) < first[:, None], ga, 0.0)
    gw = torch.where(v > w, ga, 0.0)
    gc = torch.where(capped, at_cap + gy, 0.0) if capacity is not None else a.new_empty(0)
    return (
        torch.where((v >= 0) & (v <= w), ga, 0.0).to(increments.dtype),
        (gw if widths.dim() == 2 else gw.sum(0)).to(widths.dtype) if grad_mask & 2 else widths.new_empty(0),
        gc.to(increments.dtype),
    )
