"""The expected value in a window of value tokens in plain torch: the definition of ``windowed_value``."""

import torch
from torch import Tensor

from ._common import compute_dtype, empty_unless
from ._tokens import near


def windowed_value(logits: Tensor, values: Tensor, window: int) -> Tensor:
    """logits [R,V], values [V] -> [R] in the values' dtype."""
    p, inside = _shares(logits, window)
    return (p * torch.where(inside, values.to(p.dtype), 0.0)).sum(-1).to(values.dtype)


def windowed_value_backward(logits: Tensor, values: Tensor, g: Tensor | None, window: int, grad_mask: int = 3) -> tuple[Tensor, Tensor]:
    """Gradients of logits and values; empty if bit 0, bit 1 of grad_mask is off."""
    p, inside = _shares(logits, window)
    v = torch.where(inside, values.to(p.dtype), 0.0)
    g = p.new_zeros((p.shape[0], 1)) if g is None else g.to(p.dtype)[:, None]
    gx = g * p * (v - (p * v).sum(-1, keepdim=True))
    gv = (g * torch.where(inside, p, 0.0)).sum(0)
    return empty_unless(grad_mask & 1, gx.to(logits.dtype)), empty_unless(grad_mask & 2, gv.to(values.dtype))


def _shares(logits: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(softmax over the whole vocabulary, inside the window) [R,V]; a row of NaN is inside everywhere."""
    x = logits.to(compute_dtype(logits))
    p = x.softmax(-1)
    return p, torch.ones_like(p, dtype=torch.bool) if window < 0 else near(x, window)[0] | p.isnan()
