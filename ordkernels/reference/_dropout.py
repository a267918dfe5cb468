"""Dropout keyed by row: which elements are kept depends on seed, row id, step and feature alone."""

import torch
from torch import Tensor

from .rng import MASK, _rounds

WIDTH = 64  # features that share eight blocks of Philox


def threshold_of(p: float) -> int:
    """An element is dropped where its 16 bits are below this: p to 2^-17."""
    return min(round(p * 65536), 65535)


def dropout_factors(row_ids: Tensor, width: int, seed: Tensor | int, p: float, step: int = 0) -> Tensor:
    """row_ids [R] -> factors [R, width], 0 or 1 / (1 - p), fp64.

    The counter is (row id, step, block). Of feature f, with v = f % 64 // 16 and l = f % 16, the 16 bits are in block
    f // 64 * 8 + l // 2, word l % 2 * 2 + v // 2, its upper half where v is odd.
    """
    f = torch.arange(width, device=row_ids.device)
    v, lane = f % WIDTH // 16, f % 16
    blocks = torch.arange(-(-width // WIDTH) * 8, device=row_ids.device).expand(len(row_ids), -1)
    low, high = (w[:, None].expand_as(blocks) for w in (row_ids & MASK, (row_ids >> 32) & MASK))
    key = torch.as_tensor(seed, device=row_ids.device).to(torch.int64)
    words = torch.stack(_rounds(low, high, torch.full_like(blocks, step), blocks, key & MASK, (key >> 32) & MASK), -1)  # [R, blocks, 4]
    bits = words[:, f // WIDTH * 8 + lane // 2, lane % 2 * 2 + v // 2] >> (v % 2 * 16) & 0xFFFF
    threshold = threshold_of(p)
    return (bits >= threshold).to(torch.float64) * (65536 / (65536 - threshold))
