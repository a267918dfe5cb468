"""Noising in plain torch: the definition of ``q_sample``, and of ``flow_sample``."""

import torch
from torch import Tensor

from ._common import compute_dtype, empty_unless
from ._diffusion import Coefficients, per_row, to_rows


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, a: float, kind: int = 0) -> Tensor:
    """x0 [B,D] or like noise, noise [B,D] | [B,K,D] -> like noise."""
    dtype = compute_dtype(noise)
    c0, c1 = to_rows(sample_coefficients(kind, per_row(alpha_bar, a, noise)), noise)
    x0 = x0[:, None] if x0.dim() < noise.dim() else x0
    return (c0 * x0.to(dtype) + c1 * noise.to(dtype)).to(noise.dtype)


def q_sample_backward(
    x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x0, of noise, and of c0, c1 per row; empty where not asked for."""
    dtype = compute_dtype(noise)
    c0, c1 = to_rows(sample_coefficients(kind, per_row(alpha_bar, a, noise)), noise)
    g = torch.zeros_like(noise, dtype=dtype) if g is None else g.to(dtype)
    x = (x0[:, None] if x0.dim() < noise.dim() else x0).to(dtype)
    gx = c0 * g
    gx = gx.sum(1) if x0.dim() < noise.dim() else gx
    dots = torch.stack([(g * x).sum(-1), (g * noise.to(dtype)).sum(-1)], -1)
    return (
        empty_unless(grad_mask & 1, gx.to(noise.dtype)),
        empty_unless(grad_mask & 2, (c1 * g).to(noise.dtype)),
        empty_unless(grad_mask & 4, dots),
    )


def sample_coefficients(kind: int, t: Tensor) -> Coefficients:
    """c0, c1 of ``c0 x0 + c1 noise``; kind 0 diffusion, 1 flow matching."""
    return (1 - t, t) if kind else (torch.sqrt(t), torch.sqrt(1 - t))


def sample_slopes(kind: int, t: Tensor) -> Coefficients:
    """d(c0, c1) / dt."""
    one = torch.ones_like(t)
    return (-one, one) if kind else (0.5 / torch.sqrt(t), -0.5 / torch.sqrt(1 - t))
