"""CRPS of a sample in plain torch: the definition of ``crps``. fp32 or fp64."""

import torch
from torch import Tensor

from ._common import empty_unless

SAMPLES, Y = 1, 2  # bits of grad_mask


def crps(samples: Tensor, y: Tensor, fair: bool, grad_mask: int = 3) -> tuple[Tensor, Tensor]:
    """samples [B, L], y [B] -> value [B]: mean |s - y| - mean |s - s'| / 2; its slopes by the samples [B, L], [0, L] with grad_mask 0.

    With d = s - y in rising order, sum_i<j (d_j - d_i) = sum_i (2 i - (L - 1)) d_i, so each d has one factor.
    """
    L = samples.shape[1]
    d, order = (samples - y[:, None]).sort(dim=1, stable=True)  # shifting by y changes no difference, and keeps them exact; NaN last
    lift = (2 * torch.arange(L, device=d.device, dtype=d.dtype) - (L - 1)) / (L * max(L - 1 if fair else L, 1))
    slope = torch.where(d[:, -1:].isnan(), torch.nan, d.sign() / L - lift).detach()  # a row with a NaN is NaN, each slope too
    terms = d * slope
    terms = torch.where(y.isinf()[:, None] & ~(terms > 0) & ~d.isnan(), 0.0, terms)  # infinite, though a factor may be 0
    value = terms.sum(1)
    if not grad_mask:
        return value, samples.new_empty(0, L)
    return value, torch.zeros_like(slope).scatter(1, order, slope)


def crps_backward(slopes: Tensor, g: Tensor, fair: bool, grad_mask: int = 3) -> tuple[Tensor, Tensor]:
    """Gradients of samples [B, L] and y [B]; an empty tensor for one that is not asked for."""
    return empty_unless(grad_mask & SAMPLES, g[:, None] * slopes), empty_unless(grad_mask & Y, -g * slopes.sum(1))
