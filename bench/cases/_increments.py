"""Inputs of nested_min and encode_increments."""

import torch
from torch import Tensor

from . import generator

QUANTUM = 2.0**-10


def inputs(B: int, K: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Increments [B,K], widths [K], capacity [B]; the cap is reached in about half of the rows.

    Sums are exact in fp32 and nothing ties, so that every form has the same gradients: widths are multiples of QUANTUM,
    increments odd multiples of its half, capacities of its quarter.
    """
    g = generator(device, 0)

    def some(low: float, high: float, *shape: int) -> Tensor:
        return torch.randint(int(low / QUANTUM), int(high / QUANTUM), shape, generator=g, device=device) * QUANTUM

    return some(-0.25, 1.25, B, K) + QUANTUM / 2, some(0.5, 1.0, K), some(0.2 * K, 0.9 * K, B) + QUANTUM / 4
