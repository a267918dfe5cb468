"""The pinball loss in plain torch: the definition of ``pinball``. fp32 or fp64."""

import torch
from torch import Tensor

from ._common import empty_unless


def pinball(q: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    """q [B, L], y [B], levels [B, L] -> [B, L]: level (y - q) above the quantile, (1 - level) (q - y) below."""
    d = y[:, None] - q
    return d * _slope(d, levels)


def pinball_backward(q: Tensor, y: Tensor, levels: Tensor, g: Tensor | None, grad_mask: int) -> tuple[Tensor, Tensor]:
    """Gradients of q [B, L] and y [B]; on the quantile, half of each side's, as torch.maximum's."""
    by_y = _slope(y[:, None] - q, levels) * (torch.zeros_like(q) if g is None else g)
    return empty_unless(grad_mask & 1, -by_y), empty_unless(grad_mask & 2, by_y.sum(1))


def _slope(d: Tensor, levels: Tensor) -> Tensor:
    d = d.detach()
    below = torch.where(d < 0, levels - 1, torch.where(d == 0, levels - 0.5, d))  # NaN stays
    return torch.where(d > 0, levels, below)
