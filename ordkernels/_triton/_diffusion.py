"""What noising and reverse steps share on a GPU: tiles of rows and columns, the rows' levels (alpha bars or times), their noise.

Coefficients of per-row levels are computed in fp64, as on every backend; those of a single level are computed on the host. For fp64
tensors a single level becomes one per row.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._noise import EXPLICIT, GENERATED, GENERATED_UNALIGNED, NO_NOISE, normals
from ._sizes import cdiv, next_power_of_2

TILE = 1024  # elements of a program


@triton.jit
def load_level(p, b, k, stride_b, stride_k, mask):
    return tl.load(p + b * stride_b + k * stride_k, mask=mask, other=0.5).to(tl.float64)


@triton.jit
def row_noise(noise, row_ids, offsets, mask, b, k, tile, row_mask, step, seed, D, SOURCE: tl.constexpr, HAS_IDS: tl.constexpr,
    BLOCK_D: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """[BLOCK_R, BLOCK_D] standard normals of rows (b, k), explicit or generated."""
    if SOURCE == EXPLICIT:
        value = tl.load(noise + offsets, mask=mask, other=0.0).to(ACC)
    else:
        row = b
        if HAS_IDS:
            row = tl.load(row_ids + b, mask=row_mask, other=0)
        value = normals(row, k * D + tile * BLOCK_D, step, seed, SOURCE, BLOCK_D).to(ACC)
    return value


@triton.jit
def tile_offsets(R, K, D, tiles, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows r = b K + k and columns of this program: r, b, k, column tile, offsets, row mask and mask.

    One division of 64 bits a program; its rows, counted from the first one's b, divide in 32.
    """
    pid = tl.program_id(0)
    tile = (pid % tiles).to(tl.int64)
    first = (pid // tiles).to(tl.int64) * BLOCK_R
    i = tl.arange(0, BLOCK_R)
    r = first + i
    k = (first % K).to(tl.int32) + i
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    row_mask = r < R
    return r, first // K + k // K, (k % K).to(tl.int64), tile, r[:, None] * D + d[None, :], row_mask, row_mask[:, None] & (d < D)[None, :]


@functools.lru_cache
def _tile(D: int) -> tuple[int, int, int]:
    """(BLOCK_R, BLOCK_D, tiles of a row)."""
    block_d = min(max(4, next_power_of_2(D)), TILE)
    return TILE // block_d, block_d, cdiv(D, block_d)


class DiffusionRows:
    """Rows [B, D] or [B, K, D], their levels, and the tiles over them."""

    def __init__(self, rows: Tensor, levels: tuple[tuple[Tensor | None, float], ...]) -> None:
        self.B, *middle, self.D = shape = rows.shape
        self.K = middle[0] if middle else 1
        self.R = self.B * self.K
        is_double = rows.dtype is torch.float64
        self.acc, self.tl_acc = (torch.float64, tl.float64) if is_double else (torch.float32, tl.float32)
        self.per_row = is_double or any(t is not None for t, _ in levels)  # a kernel's scalars are fp32
        self.levels, self.strides = [], []
        for t, number in levels:
            if self.per_row and t is None:
                t = rows.new_full((), number, dtype=torch.float64).expand(shape[:-1])
            self.levels.append(rows if t is None else t)
            self.strides += (0, 0) if t is None else (*t.stride(), 0)[:2]
        self.block_r, self.block_d, self.tiles = _tile(self.D)

    def grid(self, rows: int) -> tuple[int]:
        return (cdiv(rows, self.block_r) * self.tiles,)

    def source(self, noise: Tensor | None, random: bool) -> int:
        if noise is not None:
            return EXPLICIT.value
        return (GENERATED.value if self.K == 1 or self.D % 4 == 0 else GENERATED_UNALIGNED.value) if random else NO_NOISE.value

    def new_dots(self, rows: Tensor, n: int) -> Tensor:
        return rows.new_empty((self.tiles, *rows.shape[:-1], n) if n else (1, 0), dtype=self.acc)
