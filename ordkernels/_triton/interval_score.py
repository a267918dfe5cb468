"""The interval score of [B] rows in Triton, elementwise."""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import launch
from ._sizes import cdiv

BLOCK_B = 1024


@triton.jit
def _bounds(lower, upper, y, r, B):
    """By how much each label is below and above, and the width."""
    low, high = tl.load(lower + r, mask=r < B, other=0.0), tl.load(upper + r, mask=r < B, other=0.0)
    label = tl.load(y + r, mask=r < B, other=0.0)
    return low - label, label - high, high - low


@triton.jit
def _slope(d, rate):
    return tl.where(d > 0, rate, tl.where(d < 0, 0.0, d + rate / 2))  # NaN stays


@triton.jit
def interval_score_kernel(lower, upper, y, out, rate, B, BLOCK_B: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    below, above, width = _bounds(lower, upper, y, r, B)
    c = tl.load(rate)
    tl.store(out + r, width + tl.where(below < 0, 0.0, below * c) + tl.where(above < 0, 0.0, above * c), mask=r < B)


@triton.jit
def interval_score_backward_kernel(lower, upper, y, g, g_lower, g_upper, g_y, rate, B, GRAD_MASK: tl.constexpr, BLOCK_B: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    below, above, _ = _bounds(lower, upper, y, r, B)
    c = tl.load(rate)
    below, above = _slope(below, c), _slope(above, c)
    grad = tl.load(g + r, mask=r < B, other=0.0)
    if GRAD_MASK & 1:
        tl.store(g_lower + r, (below - 1) * grad, mask=r < B)
    if GRAD_MASK & 2:
        tl.store(g_upper + r, (1 - above) * grad, mask=r < B)
    if GRAD_MASK & 4:
        tl.store(g_y + r, (above - below) * grad, mask=r < B)


def interval_score(lower: Tensor, upper: Tensor, y: Tensor, level: float) -> Tensor:
    lower, upper, y = lower.contiguous(), upper.contiguous(), y.contiguous()
    rate = lower.new_full((), 2 / (1 - level))  # a tensor: Triton passes Python numbers in fp32
    out = torch.empty_like(lower)
    if len(lower):
        launch(interval_score_kernel, (cdiv(len(lower), BLOCK_B),), lower, upper, y, out, rate, len(lower), BLOCK_B, num_warps=4)
    return out


def interval_score_backward(
    lower: Tensor, upper: Tensor, y: Tensor, g: Tensor, level: float, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    lower, upper, y, g = lower.contiguous(), upper.contiguous(), y.contiguous(), g.contiguous()
    rate = lower.new_full((), 2 / (1 - level))
    gl, gu, gy = (lower.new_empty(len(lower) if grad_mask & bit else 0) for bit in (1, 2, 4))
    if len(lower):
        grid = (cdiv(len(lower), BLOCK_B),)
        launch(interval_score_backward_kernel, grid, lower, upper, y, g, gl, gu, gy, rate, len(lower), grad_mask, BLOCK_B, num_warps=4)
    return gl, gu, gy


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    for t in ("*fp32", "*fp64"):
        arguments = dict(lower=t, upper=t, y=t, rate=t, B="i32", BLOCK_B="constexpr")
        yield interval_score_kernel, arguments | dict(out=t), {"BLOCK_B": BLOCK_B}, {"num_warps": 4}
        backward = arguments | dict(g=t, g_lower=t, g_upper=t, g_y=t, GRAD_MASK="constexpr")
        yield interval_score_backward_kernel, backward, {"BLOCK_B": BLOCK_B, "GRAD_MASK": 7}, {"num_warps": 4}
