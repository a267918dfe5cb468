"""CRPS in Triton: BLOCK_B rows a program, each sorted in registers.

fp64, and rows longer than LONGEST_SORT, have no such kernel: there the launcher sorts with torch.sort and computes in torch, on the
same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import crps as reference
from ._launch import launch
from ._rows import LONGEST_SORT, row_tile, sort_rows, sort_tile
from ._sizes import cdiv


@triton.jit
def crps_kernel(
    samples, y, value, slopes, B, per_row, per_pair, L: tl.constexpr, SLOPES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):  # per_row = 1 / L, per_pair = 1 / (L^2), or 1 / (L (L - 1)) of different draws
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.arange(0, BLOCK_L)  # noqa: E741
    mask = (r < B)[:, None] & (l < L)[None, :]
    label = tl.load(y + r, mask=r < B, other=0.0)
    x = tl.load(samples + r[:, None] * L + l[None, :], mask=mask, other=0.0)
    d, column = sort_rows(x - label[:, None], l, L)  # [BLOCK_B, BLOCK_L]
    sign = (d > 0).to(tl.float32) - (d < 0).to(tl.float32)
    slope = sign * per_row - (2 * l - (L - 1)).to(tl.float32)[None, :] * per_pair
    total = tl.sum(tl.where(mask, d * slope, 0.0), 1)
    has_nan = tl.max((mask & (d != d)).to(tl.int32), 1) > 0
    slope = tl.where(has_nan[:, None], float("nan"), slope)
    infinite = (tl.abs(label) == float("inf")) & (~has_nan)  # though a factor may be 0
    tl.store(value + r, tl.where(infinite, float("inf"), total), mask=r < B)
    if SLOPES:
        tl.store(slopes + r[:, None] * L + column, slope, mask=mask)


@triton.jit
def crps_backward_kernel(slopes, g, gs, gy, B, L: tl.constexpr, GRAD_MASK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    gr = tl.load(g + r, mask=r < B, other=0.0)
    total = tl.zeros([BLOCK_B], tl.float32)
    for first in range(0, L, BLOCK_L):
        l = first + tl.arange(0, BLOCK_L)  # noqa: E741
        mask = (r < B)[:, None] & (l < L)[None, :]
        offsets = r[:, None] * L + l[None, :]
        s = tl.load(slopes + offsets, mask=mask, other=0.0)
        if GRAD_MASK & 1:
            tl.store(gs + offsets, gr[:, None] * s, mask=mask)
        total += tl.sum(s, 1)
    if GRAD_MASK & 2:
        tl.store(gy + r, -gr * total, mask=r < B)


def crps(samples: Tensor, y: Tensor, fair: bool, grad_mask: int) -> tuple[Tensor, Tensor]:
    B, L = samples.shape
    if samples.dtype == torch.float64 or L > LONGEST_SORT:
        return reference.crps(samples, y, fair, grad_mask)
    samples, y = samples.contiguous(), y.contiguous()
    value, slopes = samples.new_empty(B), samples.new_empty(B if grad_mask else 0, L)
    if B:
        block_b, block_l = sort_tile(L)
        pairs = L * max(L - 1 if fair else L, 1)
        launch(
            crps_kernel, (cdiv(B, block_b),),
            samples, y, value, slopes, B, 1 / L, 1 / pairs, L, grad_mask != 0, block_b, block_l, num_warps=4,
        )  # fmt: skip
    return value, slopes


def crps_backward(slopes: Tensor, g: Tensor, fair: bool, grad_mask: int) -> tuple[Tensor, Tensor]:
    B, L = slopes.shape
    if g.dtype == torch.float64:
        return reference.crps_backward(slopes, g, fair, grad_mask)
    slopes, g = slopes.contiguous(), g.contiguous()
    gs, gy = g.new_empty((B, L) if grad_mask & reference.SAMPLES else (0,)), g.new_empty(B if grad_mask & reference.Y else 0)
    if B:
        block_b, block_l = row_tile(L)
        launch(crps_backward_kernel, (cdiv(B, block_b),), slopes, g, gs, gy, B, L, grad_mask, block_b, block_l, num_warps=4)
    return gs, gy


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, sizes, options = "*fp32", {"B": "i32"}, {"num_warps": 4}
    for L in (20, 128, LONGEST_SORT):
        block_b, block_l = sort_tile(L)
        values = {"L": L, "SLOPES": True, "BLOCK_B": block_b, "BLOCK_L": block_l}
        arguments = dict(samples=f, y=f, value=f, slopes=f, per_row="fp32", per_pair="fp32") | sizes
        yield crps_kernel, arguments | dict.fromkeys(values, "constexpr"), values, options
        block_b, block_l = row_tile(L)
        values = {"L": L, "GRAD_MASK": 3, "BLOCK_B": block_b, "BLOCK_L": block_l}
        yield crps_backward_kernel, dict(slopes=f, g=f, gs=f, gy=f) | sizes | dict.fromkeys(values, "constexpr"), values, options
