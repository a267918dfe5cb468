"""What the references share."""

import torch
from torch import Tensor


def compute_dtype(t: Tensor) -> torch.dtype:
    """fp32 for everything up to fp32, fp64 for fp64."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def empty_unless(asked: int, gradient: Tensor) -> Tensor:
    """The gradient if it is asked for, else an empty tensor."""
    return gradient if asked else gradient.new_empty(0)
