"""Mixing embeddings of value tokens in plain torch: the definition of ``embedding_mixup``."""

import torch
from torch import Tensor

from ._common import compute_dtype, empty_unless
from ._tokens import near


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
    logits: Tensor, embedding: Tensor, g: Tensor | None, window: int, first: int, grad_mask: int = 3
) -> tuple[Tensor, Tensor]:
    """Gradients of logits and embedding; empty if bit 0, bit 1 of grad_mask is off."""
    p = mixing_weights(logits, window, first)
    g = p.new_zeros((p.shape[0], embedding.shape[1])) if g is None else g.to(p.dtype)
    dp = g @ embedding.to(p.dtype).T
    gx = p * (dp - (p * dp).sum(-1, keepdim=True))
    return empty_unless(grad_mask & 1, gx.to(logits.dtype)), empty_unless(grad_mask & 2, (p.T @ g).to(embedding.dtype))
