"""Increments of a target in plain torch: the definition of ``encode_increments``.

A target is split at edges ``0 = c_0 < c_1 < ...``, widths ``w_k = c_k - c_{k-1}``, into ``v_k = clip(y - c_{k-1}, 0, w_k)``.
The gradient of clip is torch.clamp's: ties with 0 and w_k pass it.
"""

import torch
from torch import Tensor

from ._common import compute_dtype
from ._increments import clip


def edges(widths: Tensor) -> Tensor:
    """c_{k-1}, the lower edges: like widths."""
    return torch.cat([torch.zeros_like(widths[..., :1]), widths[..., :-1].cumsum(-1)], -1)


def encode_increments(y: Tensor, widths: Tensor) -> Tensor:
    """y [B], widths [K] | [B,K] -> [B,K]."""
    dtype = compute_dtype(y)
    w = widths.to(dtype)
    return clip(y.to(dtype)[:, None] - edges(w), w).to(y.dtype)


def encode_increments_backward(y: Tensor, widths: Tensor, g: Tensor | None, grad_mask: int = 3) -> tuple[Tensor, Tensor]:
    """Gradients of y and widths; v_j falls with every w_k, k < j, through its edge."""
    dtype = compute_dtype(y)
    w = widths.to(dtype)
    d = y.to(dtype)[:, None] - edges(w)
    g = torch.zeros_like(d) if g is None else g.to(dtype)
    inside = torch.where((d >= 0) & (d <= w), g, 0.0)
    gw = torch.where(d > w, g, 0.0) - (inside.flip(1).cumsum(1).flip(1) - inside)
    return inside.sum(1).to(y.dtype), (gw if widths.dim() == 2 else gw.sum(0)).to(widths.dtype)
