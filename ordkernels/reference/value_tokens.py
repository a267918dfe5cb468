"""Mixing value tokens in plain torch: the definition that every kernel is held to.

``m = argmax_j x_j`` is a constant for the gradients; of equal ones the first. A row without a softmax (NaN, +inf, all -inf) is NaN.
A window below 0 is the whole vocabulary.
"""

import torch
from torch import Tensor

from .planar_flow import compute_dtype


def near(x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """x [R,V] -> is |j - m| <= window // 2 [R,V], m [R,1]."""
    m = x.argmax(-1, keepdim=True)
    return (torch.arange(x.shape[-1], device=x.device) - m).abs() <= window // 2, m


def mixing_weights(logits: Tensor, window: int, first: int) -> Tensor:
    """Softmax [R,V] over the window, cut at `first`; a special argmax (below `first`) stands alone. fp32, or fp64 for fp64."""
    x = logits.to(compute_dtype(logits))
    if window >= 0:
        inside, m = near(x, window)
        j = torch.arange(x.shape[-1], device=x.device)
        x = torch.where(torch.where(m >= first, inside & (j >= first), j == m), x, -torch.inf)
    return x.softmax(-1)


def embedding_mixup(logits: Tensor, embedding: Tensor, window: int, first: int) -> Tensor:
    """logits [R,V], embedding [V,E] -> [R,E] in the embedding's dtype."""
    p = mixing_weights(logits, window, first)
    return (p @ embedding.to(p.dtype)).to(embedding.dtype)


def embedding_mixup_backward(
    logits: Tensor, embedding: Tensor, g: Tensor | None, window: int, first: int, wanted: int = 3
) -> tuple[Tensor, Tensor]:
    """Gradients of logits and embedding; empty if bit 0, bit 1 of wanted is off."""
    p = mixing_weights(logits, window, first)
    g = p.new_zeros((p.shape[0], embedding.shape[1])) if g is None else g.to(p.dtype)
    dp = g @ embedding.to(p.dtype).T
    gx = p * (dp - (p * dp).sum(-1, keepdim=True))
    return _if(wanted & 1, gx, logits), _if(wanted & 2, p.T @ g, embedding)


def windowed_value(logits: Tensor, values: Tensor, window: int) -> Tensor:
    """logits [R,V], values [V] -> [R] in the values' dtype."""
    p, inside = _shares(logits, window)
    return torch.where(inside, p * values.to(p.dtype), 0.0).sum(-1).to(values.dtype)


def windowed_value_backward(logits: Tensor, values: Tensor, g: Tensor | None, window: int, wanted: int = 3) -> tuple[Tensor, Tensor]:
    """Gradients of logits and values; empty if bit 0, bit 1 of wanted is off."""
    p, inside = _shares(logits, window)
    v = torch.where(inside, values.to(p.dtype), 0.0)
    g = p.new_zeros((p.shape[0], 1)) if g is None else g.to(p.dtype)[:, None]
    gx = g * p * (v - (p * v).sum(-1, keepdim=True))
    return _if(wanted & 1, gx, logits), _if(wanted & 2, (g * torch.where(inside, p, 0.0)).sum(0), values)


def _shares(logits: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(softmax over the whole vocabulary, inside the window) [R,V]; a row of NaN is inside everywhere."""
    x = logits.to(compute_dtype(logits))
    p = x.softmax(-1)
    return p, torch.ones_like(p, dtype=torch.bool) if window < 0 else near(x, window)[0] | p.isnan()


def _if(wanted: int, g: Tensor, like: Tensor) -> Tensor:
    return g.to(like.dtype) if wanted else like.new_empty(0)
