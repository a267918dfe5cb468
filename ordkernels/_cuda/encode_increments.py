"""encode_increments in CUDA C++."""

import torch
from torch import Tensor

from ._increments import width_reasons


def unavailable_reasons(y: Tensor, widths: Tensor, *_: object) -> list[str]:
    return width_reasons(y, widths.shape[-1])


backward_unavailable_reasons = unavailable_reasons


def encode_increments(y: Tensor, widths: Tensor) -> Tensor:
    out: Tensor = torch.ops.ordkernels_cuda.encode_increments(y, widths)
    return out


def encode_increments_backward(y: Tensor, widths: Tensor, g: Tensor | None, grad_mask: int) -> tuple[Tensor, Tensor]:
    if g is None:
        return y.new_zeros(y.shape), widths.new_zeros(widths.shape)
    gy, gw = torch.ops.ordkernels_cuda.encode_increments_backward(y, widths, g, grad_mask)
    if widths.dim() == 1:  # partial sums, a block each
        inside, above = gw.sum(0)
        gw = (above - (inside.flip(0).cumsum(0).flip(0) - inside)).to(widths.dtype)
    return gy, gw
