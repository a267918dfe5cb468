"""Padded sequences as kernels take them: the tokens that exist, one after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation.tensors import can_read_values

__all__ = ["Packing", "in_whole_blocks", "offsets_of"]

ROWS = 64  # of a block: products of fewer are not all summed alike


class Packing(NamedTuple):
    """Where the tokens of padded sequences lie that exist. Where that cannot be read (it would wait for a GPU, or break a graph), the
    other tokens follow behind the last sequence, so that all shapes are known."""

    mask: Tensor  # [S, L] bool: the tokens that exist
    where: Tensor  # [N], N <= S L: places in mask.flatten(), those that exist in front, in order
    offsets: Tensor  # [S + 1]
    padded: bool

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        there, offsets = mask.flatten(), offsets_of(mask.sum(1))
        if can_read_values(mask):
            return cls(mask, there.nonzero()[:, 0], offsets, False)
        place = torch.where(there, there.cumsum(0) - 1, there.sum() + (~there).cumsum(0) - 1)
        every = torch.arange(len(there), device=mask.device)
        return cls(mask, torch.empty_like(every).scatter(0, place, every), offsets, True)

    def pack(self, x: Tensor) -> Tensor:
        """``[S, L, ...]`` -> ``[N, ...]``."""
        return x.flatten(0, 1).index_select(0, self.where)

    def unpack(self, packed: Tensor) -> Tensor:
        """``[N, ...]`` -> ``[S, L, ...]``; what is no token is 0, or, behind the last sequence, what ``packed`` has there."""
        rest = packed.shape[1:]
        return packed.new_zeros(self.mask.numel(), *rest).index_copy(0, self.where, packed).view(*self.mask.shape, *rest)


def offsets_of(lengths: Tensor) -> Tensor:
    """Where packed sequences of ``lengths [S]`` begin and the last ends: ``[S + 1]``."""
    return F.pad(lengths.cumsum(0), (1, 0))


def in_whole_blocks(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` for packed rows ``x [N, C]``, filled up to whole blocks in eval mode: a BLAS sums a row in an order that depends on
    how few there are, and N on the other rows' items."""
    if layer.training or x.dim() > 2 or not can_read_values(x):  # a graph would be specialised by the number
        return layer(x)  # type: ignore[no-any-return]
    N = x.shape[0]
    return layer(F.pad(x, (0, 0, 0, -N % ROWS)))[:N]  # type: ignore[no-any-return]
