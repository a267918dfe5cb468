"""Planar flows of predicted parameters in plain torch: the definition of ``conditional_planar_flow``."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ._common import compute_dtype
from ._planar_flow import CONSTRAINED
from .planar_flow import planar_flow, planar_flow_backward


def conditional_planar_flow(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, mode: int = CONSTRAINED) -> tuple[Tensor, Tensor, Tensor]:
    """planar_flow on ``h @ weight.T + bias`` viewed [B, K, 2D + 1], each layer u (D) | w (D) | b (1)."""
    return planar_flow(z, *_split(z, h, weight, bias), mode)


def conditional_planar_flow_backward(
    z: Tensor, act: Tensor, h: Tensor, weight: Tensor, bias: Tensor, gz_out: Tensor, gl: Tensor, mode: int = CONSTRAINED
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, h, weight, bias."""
    u, w, _ = _split(z, h, weight, bias)
    gz, gu, gw, gb = planar_flow_backward(z, act, u, w, gz_out, gl, mode)
    g = torch.cat([gu, gw, gb[..., None]], -1).flatten(1)  # [B, K (2D + 1)]
    gh, gweight = g @ weight.to(g.dtype), g.T @ h.to(g.dtype)
    return gz, gh.to(h.dtype), gweight.to(weight.dtype), g.sum(0).to(bias.dtype)


def _split(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    D, dtype = z.shape[-1], compute_dtype(z)
    p = F.linear(h.to(dtype), weight.to(dtype), bias.to(dtype)).unflatten(1, (-1, 2 * D + 1))
    u, w, b = p.split([D, D, 1], -1)
    return u, w, b[..., 0]
