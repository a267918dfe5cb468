"""The pinball loss of [B, L] quantiles in Triton, elementwise."""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import launch
from ._rows import row_tile
from ._sizes import cdiv


@triton.jit
def pinball_kernel(
    q, y, levels, out, B, L: tl.constexpr, level_stride: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):  # level_stride: from one row of levels to the next, 0 where all rows share one
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)  # noqa: E741
    mask = (r < B)[:, None] & (l < L)[None, :]
    offsets = r[:, None] * L + l[None, :]
    level = tl.load(levels + r[:, None] * level_stride + l[None, :], mask=mask, other=0.0)
    d = tl.load(y + r, mask=r < B, other=0.0)[:, None] - tl.load(q + offsets, mask=mask, other=0.0)
    loss = tl.where(d >= 0, level * d, (level - 1) * d)
    tl.store(out + offsets, tl.where(d != d, d, loss), mask=mask)


@triton.jit
def pinball_backward_kernel(
    q, y, levels, g, gq, gy, B, L: tl.constexpr, level_stride: tl.constexpr,
    GRAD_MASK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    label = tl.load(y + r, mask=r < B, other=0.0)
    total = tl.zeros([BLOCK_B], q.dtype.element_ty)
    for first in range(0, L, BLOCK_L):
        l = first + tl.arange(0, BLOCK_L)  # noqa: E741
        mask = (r < B)[:, None] & (l < L)[None, :]
        offsets = r[:, None] * L + l[None, :]
        d = label[:, None] - tl.load(q + offsets, mask=mask, other=0.0)
        level = tl.load(levels + r[:, None] * level_stride + l[None, :], mask=mask, other=0.0)
        below = tl.where(d < 0, level - 1, tl.where(d == 0, level - 0.5, d))  # NaN stays
        slope = tl.where(d > 0, level, below) * tl.load(g + offsets, mask=mask, other=0.0)
        if GRAD_MASK & 1:
            tl.store(gq + offsets, -slope, mask=mask)
        total += tl.sum(tl.where(mask, slope, 0.0), 1)
    if GRAD_MASK & 2:
        tl.store(gy + r, total, mask=r < B)


def _with_row_stride(levels: Tensor) -> tuple[Tensor, int]:
    """Levels [B, L] with adjacent columns, and the stride from row to row, 0 where all rows share one."""
    if levels.stride(0) == 0 and levels.stride(1) == 1:
        return levels, 0
    return levels.contiguous(), levels.shape[1]


def pinball(q: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    B, L = q.shape
    q, y, (levels, stride) = q.contiguous(), y.contiguous(), _with_row_stride(levels)
    out = torch.empty_like(q)
    if B and L:
        block_b, block_l = row_tile(L)
        grid = cdiv(B, block_b), cdiv(L, block_l)
        launch(pinball_kernel, grid, q, y, levels, out, B, L, stride, block_b, block_l, num_warps=4)
    return out


def pinball_backward(q: Tensor, y: Tensor, levels: Tensor, g: Tensor | None, grad_mask: int) -> tuple[Tensor, Tensor]:
    B, L = q.shape
    q, y, (levels, stride) = q.contiguous(), y.contiguous(), _with_row_stride(levels)
    g = torch.zeros_like(q) if g is None else g.contiguous()
    gq, gy = q.new_empty((B, L) if grad_mask & 1 else (0,)), q.new_zeros(B if grad_mask & 2 else 0)
    if B and L:
        block_b, block_l = row_tile(L)
        launch(
            pinball_backward_kernel, (cdiv(B, block_b),), q, y, levels, g, gq, gy, B, L, stride, grad_mask, block_b, block_l, num_warps=8
        )
    return gq, gy


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    for t, L in (("*fp32", 20), ("*fp64", 128), ("*fp32", 4096)):
        block_b, block_l = row_tile(L)
        values = {"L": L, "level_stride": 0, "BLOCK_B": block_b, "BLOCK_L": block_l}
        arguments = dict(q=t, y=t, levels=t, B="i32") | dict.fromkeys(values, "constexpr")
        yield pinball_kernel, arguments | dict(out=t), values, {"num_warps": 4}
        backward = arguments | dict(g=t, gq=t, gy=t, GRAD_MASK="constexpr")
        yield pinball_backward_kernel, backward, values | {"GRAD_MASK": 3}, {"num_warps": 8}
