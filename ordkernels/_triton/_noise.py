"""Sources of a kernel's noise, and row-keyed normals generated in registers."""

import triton
import triton.language as tl
from torch import Tensor

from ._philox import normal4

NO_NOISE = tl.constexpr(0)
EXPLICIT = tl.constexpr(1)  # a tensor
GENERATED = tl.constexpr(2)  # from Philox; a row's numbers start at a block of four
GENERATED_UNALIGNED = tl.constexpr(3)  # it need not: a block is generated for every number


@triton.jit
def four_to_columns(n0, n1, n2, n3):
    """Four [BLOCK_B, BLOCK_Q], number i of each block -> [BLOCK_B, 4 BLOCK_Q] in order."""
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@triton.jit
def pick(index, n0, n1, n2, n3):
    """Number index % 4 of each block."""
    word = index % 4
    return tl.where(word < 2, tl.where(word == 0, n0, n1), tl.where(word == 2, n2, n3))


@triton.jit
def normals(row, first, step, seed, SOURCE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Numbers first, ..., first + BLOCK_D - 1 of the streams of rows [BLOCK_B], first [BLOCK_B] -> [BLOCK_B, BLOCK_D]."""
    if SOURCE == GENERATED:
        block = (first // 4)[:, None] + tl.arange(0, BLOCK_D // 4)[None, :]
        n0, n1, n2, n3 = normal4(row[:, None] + block * 0, step, block, seed)
        value = four_to_columns(n0, n1, n2, n3)
    else:
        index = first[:, None] + tl.arange(0, BLOCK_D)[None, :]
        n0, n1, n2, n3 = normal4(row[:, None] + index * 0, step, index // 4, seed)
        value = pick(index, n0, n1, n2, n3)
    return value


@triton.jit
def draw_normals(row, draw, step, seed, largest_draw, D, SOURCE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Numbers draw D, ..., draw D + D - 1 of the rows' streams, [BLOCK_B, BLOCK_D]; NaN where there is no such draw."""
    invalid = (draw < 0) | (draw > largest_draw)
    value = normals(row, tl.where(invalid, 0, draw) * D, step, seed, SOURCE, BLOCK_D)
    return tl.where(invalid[:, None], float("nan"), value)


def noise_source(noise: Tensor | None, row_ids: Tensor | None, D: int) -> int:
    """The source for a chain of rows [B, D]."""
    if noise is not None:
        return EXPLICIT.value
    if row_ids is None:
        return NO_NOISE.value
    return GENERATED.value if D % 4 == 0 else GENERATED_UNALIGNED.value
