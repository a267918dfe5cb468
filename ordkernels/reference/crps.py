"""CRPS of a sample and the pinball loss, in plain torch: the definitions that every kernel is held to. fp32 or fp64."""

import torch
from torch import Tensor

SAMPLES, Y = 1, 2  # bits of `needs`: the gradients that are wanted


def crps(samples: Tensor, y: Tensor, fair: bool, needs: int = 3) -> tuple[Tensor, Tensor]:
    """samples [B, L], y [B] -> value [B]: mean |s - y| - mean |s - s'| / 2; its slopes by the samples [B, L], [0, L] without needs.

    With d = s - y in rising order, sum_i<j (d_j - d_i) = sum_i (2 i - (L - 1)) d_i, so each d has one factor.
    """
    L = samples.shape[1]
    d, order = (samples - y[:, None]).sort(dim=1, stable=True)  # shifting by y changes no difference, and keeps them exact; NaN last
    lift = (2 * torch.arange(L, device=d.device, dtype=d.dtype) - (L - 1)) / (L * max(L - 1 if fair else L, 1))
    slope = (torch.where(d.isnan(), d, d.sign()) / L - lift).detach()
    value = (d * slope).sum(1)
    if not needs:
        return value, samples.new_empty(0, L)
    return value, torch.zeros_like(slope).scatter(1, order, slope)


def crps_backward(slopes: Tensor, g: Tensor, fair: bool, needs: int = 3) -> tuple[Tensor, Tensor]:
    """Gradients of samples [B, L] and y [B]; an empty tensor for one that is not wanted."""
    return (
        g[:, None] * slopes if needs & SAMPLES else slopes.new_empty(0),
        -g * slopes.sum(1) if needs & Y else slopes.new_empty(0),
    )


def pinball(q: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    """q [B, L], y [B], levels [B, L] -> [B, L]: level (y - q) above the quantile, (1 - level) (q - y) below."""
    d = y[:, None] - q
    return d * _slope(d, levels)


def pinball_backward(q: Tensor, y: Tensor, levels: Tensor, g: Tensor | None, wanted: int) -> tuple[Tensor, Tensor]:
    """Gradients of q [B, L] and y [B]; on the quantile, half of each side's, as torch.maximum's."""
    by_y = _slope(y[:, None] - q, levels) * (torch.zeros_like(q) if g is None else g)
    return -by_y if wanted & 1 else q.new_empty(0), by_y.sum(1) if wanted & 2 else q.new_empty(0)


def _slope(d: Tensor, levels: Tensor) -> Tensor:
    d = d.detach()
    below = torch.where(d < 0, levels - 1, torch.where(d == 0, levels - 0.5, d))  # NaN stays
    return torch.where(d > 0, levels, below)
