"""Mixing embeddings of value tokens in plain torch: the definition of ``embedding_mixup``."""

import torch
from torch import Tensor

from .._validation.tensors import can_read_values
from ._common import compute_dtype, empty_unless
from ._tokens import near


def mixing_weights(logits: Tensor, window: int, first: int) -> tuple[Tensor, Tensor]:
    """(softmax over the window, inside it) [R,V]; cut at `first`, a special argmax (below `first`) stands alone. fp32, or fp64 for fp64.

    A row without a softmax is NaN, and inside everywhere.
    """
    x = logits.to(compute_dtype(logits))
    if window < 0:
        return x.softmax(-1), torch.ones_like(x, dtype=torch.bool)
    inside, m = near(x, window)
    j = torch.arange(x.shape[-1], device=x.device)
    inside = torch.where(m >= first, inside & (j >= first), j == m) | ~x.amax(-1, keepdim=True).isfinite()
    p = torch.where(inside, x, -torch.inf).softmax(-1)
    return torch.where(inside, p, 0.0), inside  # the second time for the gradient: no weight outside has one


def embedding_mixup(logits: Tensor, embedding: Tensor, window: int, first: int) -> Tensor:
    """logits [R,V], embedding [V,E] -> [R,E] in the embedding's dtype."""
    p, inside = mixing_weights(logits, window, first)
    table = embedding.to(p.dtype)
    if window >= 0 and can_read_values(table) and not table.isfinite().all():  # 0 inf: what is outside must not be multiplied
        return (p[..., None] * torch.where(inside[..., None], table, 0.0)).sum(1).to(embedding.dtype)
    return (p @ table).to(embedding.dtype)


def embedding_mixup_backward(
    logits: Tensor, embedding: Tensor, g: Tensor | None, window: int, first: int, grad_mask: int = 3
) -> tuple[Tensor, Tensor]:
    """Gradients of logits and embedding; empty if bit 0, bit 1 of grad_mask is off."""
    p, inside = mixing_weights(logits, window, first)
    g = p.new_zeros((p.shape[0], embedding.shape[1])) if g is None else g.to(p.dtype)
    dp = torch.where(inside, g @ embedding.to(p.dtype).T, 0.0)
    gx = torch.where(inside, p * (dp - (p * dp).sum(-1, keepdim=True)), 0.0)
    return empty_unless(grad_mask & 1, gx.to(logits.dtype)), empty_unless(grad_mask & 2, (p.T @ g).to(embedding.dtype))
