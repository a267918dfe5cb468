"""CRPS and the pinball loss in Triton: BLOCK_B rows a program; CRPS sorts each in registers.

A number and its place are one int64 key, so the sort is stable and needs no second array. fp64, and rows longer than LONGEST, have
no such kernel: there the launcher sorts with torch.sort and computes in torch, on the same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import crps as reference

LONGEST = 4096


@triton.jit
def crps_kernel(
    samples, y, value, slopes, B, L, per_row, per_pair, SLOPES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):  # per_row = 1 / L, per_pair = 1 / (L^2), or 1 / (L (L - 1)) of different draws
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.arange(0, BLOCK_L)  # noqa: E741
    m = (r < B)[:, None] & (l < L)[None, :]
    at = r[:, None] * L + l[None, :]
    t = tl.load(y + r, mask=r < B, other=0.0)
    x = tl.load(samples + at, mask=m, other=0.0) - t[:, None] + 0.0  # -0 becomes 0: a tie
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(x != x, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))  # rises with x; NaN last
    key = (bits.to(tl.int64) << 32) | l[None, :]
    key = tl.where((l < L)[None, :], key, 0x7FFFFFFFFFFFFFFF)
    key = tl.sort(key, dim=1)  # [BLOCK_B, BLOCK_L]
    bits = (key >> 32).to(tl.int32)
    d = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    sign = (d > 0).to(tl.float32) - (d < 0).to(tl.float32)
    sign = tl.where(d != d, d, sign)
    slope = sign * per_row - (2 * l - (L - 1)).to(tl.float32)[None, :] * per_pair
    tl.store(value + r, tl.sum(tl.where(m, d * slope, 0.0), 1), mask=r < B)
    if SLOPES:
        tl.store(slopes + r[:, None] * L + (key & 0xFFFF), slope, mask=m)


@triton.jit
def crps_backward_kernel(slopes, g, gs, gy, B, L, NEEDS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    gr = tl.load(g + r, mask=r < B, other=0.0)
    total = tl.zeros([BLOCK_B], tl.float32)
    for first in range(0, L, BLOCK_L):
        l = first + tl.arange(0, BLOCK_L)  # noqa: E741
        m = (r < B)[:, None] & (l < L)[None, :]
        at = r[:, None] * L + l[None, :]
        s = tl.load(slopes + at, mask=m, other=0.0)
        if NEEDS & 1:
            tl.store(gs + at, gr[:, None] * s, mask=m)
        total += tl.sum(s, 1)
    if NEEDS & 2:
        tl.store(gy + r, -gr * total, mask=r < B)


@triton.jit
def pinball_kernel(q, y, levels, out, B, L, step, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr):  # step: from row to row of levels
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)  # noqa: E741
    m = (r < B)[:, None] & (l < L)[None, :]
    at = r[:, None] * L + l[None, :]
    level = tl.load(levels + r[:, None] * step + l[None, :], mask=m, other=0.0)
    d = tl.load(y + r, mask=r < B, other=0.0)[:, None] - tl.load(q + at, mask=m, other=0.0)
    loss = tl.where(d >= 0, level * d, (level - 1) * d)
    tl.store(out + at, tl.where(d != d, d, loss), mask=m)


@triton.jit
def pinball_backward_kernel(
    q, y, levels, g, gq, gy, B, L, step, WANTED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    t = tl.load(y + r, mask=r < B, other=0.0)
    total = tl.zeros([BLOCK_B], q.dtype.element_ty)
    for first in range(0, L, BLOCK_L):
        l = first + tl.arange(0, BLOCK_L)  # noqa: E741
        m = (r < B)[:, None] & (l < L)[None, :]
        at = r[:, None] * L + l[None, :]
        d = t[:, None] - tl.load(q + at, mask=m, other=0.0)
        level = tl.load(levels + r[:, None] * step + l[None, :], mask=m, other=0.0)
        below = tl.where(d < 0, level - 1, tl.where(d == 0, level - 0.5, d))  # NaN stays
        slope = tl.where(d > 0, level, below) * tl.load(g + at, mask=m, other=0.0)
        if WANTED & 1:
            tl.store(gq + at, -slope, mask=m)
        total += tl.sum(tl.where(m, slope, 0.0), 1)
    if WANTED & 2:
        tl.store(gy + r, total, mask=r < B)


def _sort_tile(L: int) -> tuple[int, int, int]:
    """(BLOCK_B, BLOCK_L, warps): 4 to 16 keys a thread."""
    BL = max(triton.next_power_of_2(L), 2)
    return max(512 // BL, 1), BL, 4 if BL <= 1024 else 8


def _tile(L: int) -> tuple[int, int]:
    BL = min(max(triton.next_power_of_2(L), 2), 1024)
    return 1024 // BL, BL


def crps(samples: Tensor, y: Tensor, fair: bool, needs: int) -> tuple[Tensor, Tensor]:
    B, L = samples.shape
    if samples.dtype == torch.float64 or L > LONGEST:
        return reference.crps(samples, y, fair, needs)
    samples, y = samples.contiguous(), y.contiguous()
    value, slopes = samples.new_empty(B), samples.new_empty((B if needs else 0, L))
    if B:
        BB, BL, warps = _sort_tile(L)
        pairs = L * max(L - 1 if fair else L, 1)
        with torch.cuda.device_of(samples):
            crps_kernel[(triton.cdiv(B, BB),)](samples, y, value, slopes, B, L, 1 / L, 1 / pairs, needs != 0, BB, BL, num_warps=warps)
    return value, slopes


def crps_backward(slopes: Tensor, g: Tensor, fair: bool, needs: int) -> tuple[Tensor, Tensor]:
    B, L = slopes.shape
    if g.dtype == torch.float64:
        return reference.crps_backward(slopes, g, fair, needs)
    slopes, g = slopes.contiguous(), g.contiguous()
    gs, gy = g.new_empty((B, L) if needs & reference.SAMPLES else (0,)), g.new_empty(B if needs & reference.Y else 0)
    if B:
        BB, BL = _tile(L)
        with torch.cuda.device_of(g):
            crps_backward_kernel[(triton.cdiv(B, BB),)](slopes, g, gs, gy, B, L, needs, BB, BL, num_warps=4)
    return gs, gy


def _rows(levels: Tensor) -> tuple[Tensor, int]:
    """Levels [B, L], and the step from row to row, 0 where all rows are one."""
    if levels.stride(0) == 0 and levels.stride(1) == 1:
        return levels, 0
    return levels.contiguous(), levels.shape[1]


def pinball(q: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    B, L = q.shape
    q, y, (levels, step) = q.contiguous(), y.contiguous(), _rows(levels)
    out = torch.empty_like(q)
    if B and L:
        BB, BL = _tile(L)
        with torch.cuda.device_of(q):
            pinball_kernel[(triton.cdiv(B, BB), triton.cdiv(L, BL))](q, y, levels, out, B, L, step, BB, BL, num_warps=4)
    return out


def pinball_backward(q: Tensor, y: Tensor, levels: Tensor, g: Tensor | None, wanted: int) -> tuple[Tensor, Tensor]:
    B, L = q.shape
    q, y, (levels, step) = q.contiguous(), y.contiguous(), _rows(levels)
    g = torch.zeros_like(q) if g is None else g.contiguous()
    gq, gy = q.new_empty((B, L) if wanted & 1 else (0,)), q.new_zeros(B if wanted & 2 else 0)
    if B and L:
        BB, BL = _tile(L)
        with torch.cuda.device_of(q):
            pinball_backward_kernel[(triton.cdiv(B, BB),)](q, y, levels, g, gq, gy, B, L, step, wanted, BB, BL, num_warps=8)
    return gq, gy


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, n, blocks = "*fp32", {"B": "i32", "L": "i32"}, {"BLOCK_B": "constexpr", "BLOCK_L": "constexpr"}
    for L in (20, 128, 4096):
        BB, BL, warps = _sort_tile(L)
        yield (
            crps_kernel,
            dict(samples=f, y=f, value=f, slopes=f, **n, per_row="fp32", per_pair="fp32", SLOPES="constexpr", **blocks),
            {"SLOPES": True, "BLOCK_B": BB, "BLOCK_L": BL},
            {"num_warps": warps},
        )
        BB, BL = _tile(L)
        sizes = {"BLOCK_B": BB, "BLOCK_L": BL}
        yield (
            crps_backward_kernel,
            dict(slopes=f, g=f, gs=f, gy=f, **n, NEEDS="constexpr", **blocks),
            {"NEEDS": 3, **sizes},
            {"num_warps": 4},
        )
        for t in (f, "*fp64"):
            yield pinball_kernel, dict(q=t, y=t, levels=t, out=t, **n, step="i32", **blocks), sizes, {"num_warps": 4}
            yield (
                pinball_backward_kernel,
                dict(q=t, y=t, levels=t, g=t, gq=t, gy=t, **n, step="i32", WANTED="constexpr", **blocks),
                {"WANTED": 3, **sizes},
                {"num_warps": 8},
            )
