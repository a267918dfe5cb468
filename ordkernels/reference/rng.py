"""Philox-4x32-10 and the floats made of its words, in int64 and fp64 arithmetic: the definition that every kernel is held to.

Source: Salmon, Moraes, Dror, Shaw, Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011); Box and Muller (1958).
"""

import math

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
LARGEST_INDEX = 2**32  # of a float in the stream of its row and step


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """counter [N,4], key [N,2], int64, their lower 32 bits -> words [N,4] as int32 bit patterns."""
    out = torch.stack(_rounds(*(counter & MASK).unbind(-1), *(key & MASK).unbind(-1)), -1)
    return _signed(out).to(torch.int32)


def random_normal(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int) -> Tensor:
    """row_ids [B], draw_ids [B] or None for one draw -> [B,width] fp32. NaN rows for draws out of range."""
    pair, odd, invalid = _pairs(row_ids, draw_ids, draw, seed, step, width)
    radius = torch.sqrt(-2 * torch.log(_uniform(pair[0])))
    angle = 2 * math.pi * _uniform(pair[1])
    value = radius * torch.where(odd, torch.sin(angle), torch.cos(angle))
    return value.masked_fill(invalid, torch.nan).to(torch.float32)


def random_uniform(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int) -> Tensor:
    """As random_normal, uniform in (0, 1]."""
    pair, odd, invalid = _pairs(row_ids, draw_ids, draw, seed, step, width)
    return _uniform(torch.where(odd, pair[1], pair[0])).masked_fill(invalid, torch.nan).to(torch.float32)


def _pairs(
    row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """The two words that float [b, i] belongs to, whether it is the second of them [B,width], and the rows out of range [B,1]."""
    draws = torch.full_like(row_ids, draw) if draw_ids is None else draw_ids
    invalid = (draws < 0) | (draws > largest_draw(width))
    index = torch.where(invalid, 0, draws)[:, None] * width + torch.arange(width, device=row_ids.device)  # [B,width]
    low, high = (w[:, None].expand_as(index) for w in (row_ids & MASK, (row_ids >> 32) & MASK))
    block = index // 4
    key = torch.full_like(index, seed & MASK), torch.full_like(index, (seed >> 32) & MASK)
    words = _rounds(low, high, torch.full_like(index, step), block & MASK, *key)
    second = index % 4 >= 2
    return (torch.where(second, words[2], words[0]), torch.where(second, words[3], words[1])), index % 2 == 1, invalid[:, None]


def largest_draw(width: int) -> int:
    return (LARGEST_INDEX + 1 - width) // max(width, 1) if width <= LARGEST_INDEX + 1 else -1


def _uniform(x: Tensor) -> Tensor:
    return ((x >> 8).to(torch.float64) + 0.5) * 2**-24


def _rounds(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def _multiply(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low word of a m, in halves of 16 bits: the whole product would not fit into int64."""
    low, high = a * (m & 0xFFFF), a * (m >> 16)  # a m = low + 2^16 high, each below 2^48
    middle = (low >> 16) + high
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def _signed(x: Tensor) -> Tensor:
    """A 32-bit word -> the int32 with its bits."""
    return (x ^ 0x80000000) - 0x80000000
