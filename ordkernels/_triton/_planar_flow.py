"""What the kernels of planar flows share: loads, offsets and masks of a program, strides of groups, sizes of tiles."""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._sizes import next_power_of_2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}  # of the signatures
TILE_ROWS = 512  # elements of z in a program: per-row parameters, a 16-byte load a thread
TILE_GROUPS = 1024  # and where rows share parameters


@triton.jit
def load_as(p, offset, mask, ACC: tl.constexpr):
    return tl.load(p + offset, mask=mask, other=0.0).to(ACC)


@triton.jit
def offsets_and_masks(g, n, G, N, D, BLOCK_D: tl.constexpr):
    """Columns [1, BLOCK_D], groups [BLOCK_G, 1] and contiguous rows [BLOCK_G, BLOCK_N], with the masks of each and of a tile."""
    d = tl.arange(0, BLOCK_D)[None, :]
    g2 = g[:, None]
    row = g2 * N + n[None, :]
    rm = (g2 < G) & (n[None, :] < N)
    return d, g2, row, g < G, (g2 < G) & (d < D), rm, rm[:, :, None] & (d < D)[:, None, :]


def grouped(z: Tensor, shared: bool) -> tuple[Tensor, int, int, int, int]:
    """z with adjacent columns, G, N and the strides of a group and of a row in it."""
    if shared and z.dim() == 3:
        z = z.reshape(-1, z.shape[-1])
    if z.stride(-1) != 1 and z.shape[-1] > 1:
        z = z.contiguous()
    if shared:
        return z, 1, z.shape[0], 0, z.stride(0)
    if z.dim() == 2 or z.shape[1] == 1:
        return z, z.shape[0], 1, z.stride(0), 0
    return z, z.shape[0], z.shape[1], z.stride(0), z.stride(1)


def with_strides(p: Tensor) -> tuple[Tensor, int, int]:
    """A parameter with adjacent columns, and the strides of a group and of a layer."""
    if p.stride(-1) != 1 and p.shape[-1] > 1:
        p = p.contiguous()
    return (p, p.stride(0), p.stride(1)) if p.dim() == 3 else (p, 0, p.stride(0))


def max_registers(newton: bool, accumulate: bool) -> int | None:
    """A thread's bound. Left alone, ptxas spills a few bytes of the Newton loop, or of the sums over tiles, to fit one program more."""
    return 128 if newton else 255 if accumulate else None


@functools.lru_cache
def tile(N: int, D: int, dtype: torch.dtype, backward: bool) -> tuple[int, int, int, int]:
    """(BLOCK_G, BLOCK_N, BLOCK_D, num_warps). A forward loads 16 bytes a thread of 2-byte rows too; a backward has no registers for it."""
    block_d = next_power_of_2(D)
    half = 2 if dtype == torch.float64 else 1
    if N == 1:
        elements = TILE_ROWS // half * (2 if dtype.itemsize == 2 and not backward else 1)
        return max(1, elements // block_d), 1, block_d, 4 if block_d <= 1024 else min(16, block_d // 256)
    rows = max(1, TILE_GROUPS // half // block_d)
    block_n = min(rows, next_power_of_2(N))
    return rows // block_n, block_n, block_d, 4 if block_d <= 1024 else 8 if block_d <= 2048 else 16
