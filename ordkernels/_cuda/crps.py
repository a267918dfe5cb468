"""crps in CUDA C++: up to 64 samples a row."""

import torch
from torch import Tensor

LONGEST_SORT = 64  # numbers of a row that a thread sorts in its registers


def sort_reasons(samples: Tensor) -> list[str]:
    """Why the rows [B, L] of samples cannot be sorted."""
    reasons = []
    if samples.dtype == torch.float64:
        reasons.append("expected up to float32, got float64")
    if samples.shape[1] > LONGEST_SORT:
        reasons.append(f"expected up to {LONGEST_SORT} samples a row, got {samples.shape[1]}")
    return reasons


def unavailable_reasons(samples: Tensor, *_: object) -> list[str]:
    return sort_reasons(samples)


def crps(samples: Tensor, y: Tensor, fair: bool, grad_mask: int) -> tuple[Tensor, Tensor]:
    out: tuple[Tensor, Tensor] = torch.ops.ordkernels_cuda.crps(samples, y, fair, grad_mask)
    return out


def crps_backward(slopes: Tensor, g: Tensor, fair: bool, grad_mask: int) -> tuple[Tensor, Tensor]:
    out: tuple[Tensor, Tensor] = torch.ops.ordkernels_cuda.crps_backward(slopes, g, fair, grad_mask)
    return out
