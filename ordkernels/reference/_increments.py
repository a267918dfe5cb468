"""What the references of increments share."""

import torch
from torch import Tensor


def clip(v: Tensor, widths: Tensor) -> Tensor:
    return torch.clamp(v, torch.zeros((), dtype=v.dtype, device=v.device), widths)
