"""The interval score in plain torch: the definition of ``interval_score``. fp32 or fp64."""

import torch
from torch import Tensor

from ._common import empty_unless


def interval_score(lower: Tensor, upper: Tensor, y: Tensor, level: float) -> Tensor:
    """lower, upper, y [B] -> [B]: the width, and 2 / (1 - level) times the distance of a label outside."""
    return upper - lower + _penalty(lower - y, level) + _penalty(y - upper, level)


def interval_score_backward(
    lower: Tensor, upper: Tensor, y: Tensor, g: Tensor, level: float, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of lower, upper and y [B]; on a bound, half of each side's, as torch.maximum's."""
    below, above = _slope(lower - y, level), _slope(y - upper, level)
    g_lower, g_upper, g_y = (below - 1) * g, (1 - above) * g, (above - below) * g
    return empty_unless(grad_mask & 1, g_lower), empty_unless(grad_mask & 2, g_upper), empty_unless(grad_mask & 4, g_y)


def _penalty(d: Tensor, level: float) -> Tensor:
    return torch.where(d < 0, 0.0, d * _slope(d.detach(), level))  # not the product alone: an infinite bound times 0 is NaN


def _slope(d: Tensor, level: float) -> Tensor:
    rate = 2 / (1 - level)
    return torch.where(d > 0, rate, torch.where(d < 0, 0.0, d + rate / 2))  # NaN stays
