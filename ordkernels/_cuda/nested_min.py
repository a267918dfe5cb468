"""nested_min in CUDA C++."""

import torch
from torch import Tensor

from ._increments import width_reasons


def unavailable_reasons(increments: Tensor, *_: object) -> list[str]:
    return width_reasons(increments, increments.shape[1])


backward_unavailable_reasons = unavailable_reasons


def nested_min(increments: Tensor, widths: Tensor, capacity: Tensor | None, cap: float) -> tuple[Tensor, Tensor]:
    out: tuple[Tensor, Tensor] = torch.ops.ordkernels_cuda.nested_min(increments, widths, capacity, cap)
    return out


def nested_min_backward(
    increments: Tensor,
    widths: Tensor,
    capacity: Tensor | None,
    g_value: Tensor | None,
    g_clipped: Tensor | None,
    cap: float,
    grad_mask: int,
) -> tuple[Tensor, Tensor, Tensor]:
    gv, gw, gc = torch.ops.ordkernels_cuda.nested_min_backward(increments, widths, capacity, g_value, g_clipped, cap, grad_mask)
    if widths.dim() == 1 and grad_mask & 2:  # partial sums, a block each
        gw = gw.sum(0).to(widths.dtype)
    return gv, gw, gc
