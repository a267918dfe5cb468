"""Wasserstein quantile loss in Triton: BLOCK_B rows a program, each sorted in registers.

A number and its place are one int64 key, so the sort is stable and needs no second array. fp64, and rows longer than LONGEST,
have no such kernel: there the launcher sorts with torch.sort and computes in torch, on the same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import wasserstein as reference

LONGEST = 4096


@triton.jit
def _code(x):  # 0: zero, 1: positive, 2: negative, 3: NaN
    return (x > 0).to(tl.int32) + 2 * (x < 0).to(tl.int32) + 3 * (x != x).to(tl.int32)


@triton.jit
def _sign(code):
    c = code & 3
    return tl.where(c == 3, float("nan"), ((c & 1) - (c >> 1)).to(tl.float32))


@triton.jit
def forward_kernel(
    samples, q_user, q_item, lam, loss, signs, slope, B, L, SIGNS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.arange(0, BLOCK_L)  # noqa: E741
    m = (r < B)[:, None] & (l < L)[None, :]
    at = r[:, None] * L + l[None, :]
    x = tl.load(samples + at, mask=m, other=0.0).to(tl.float32) + 0.0  # -0 becomes 0: a tie
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(x != x, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))  # rises with x; NaN last
    key = (bits.to(tl.int64) << 32) | l[None, :]
    key = tl.where((l < L)[None, :], key, 0x7FFFFFFFFFFFFFFF)
    key = tl.sort(key, dim=1)  # [BLOCK_B, BLOCK_L]
    bits = (key >> 32).to(tl.int32)
    s = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    a = tl.where(m, s - tl.load(q_user + at, mask=m, other=0.0).to(tl.float32), 0.0)
    b = tl.where(m, s - tl.load(q_item + at, mask=m, other=0.0).to(tl.float32), 0.0)
    to_user, to_item = tl.sum(tl.abs(a), 1) / L, tl.sum(tl.abs(b), 1) / L
    w = tl.load(lam + r, mask=r < B, other=0.0)
    tl.store(loss + r, (w * to_user + (1 - w) * to_item).to(loss.dtype.element_ty), mask=r < B)
    tl.store(slope + r, to_user - to_item, mask=r < B)
    if SIGNS:
        code = (_code(a) + 4 * _code(b)).to(tl.uint8)
        tl.store(signs + r[:, None] * (2 * L) + l[None, :], code, mask=m)
        tl.store(signs + r[:, None] * (2 * L) + L + (key & 0xFFFF), code, mask=m)


@triton.jit
def backward_kernel(
    signs, slope, lam, g, gs, gu, gv, glam, B, L, NEEDS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)  # noqa: E741
    m = (r < B)[:, None] & (l < L)[None, :]
    at = r[:, None] * L + l[None, :]
    gr = tl.load(g + r, mask=r < B, other=0.0).to(tl.float32)
    w = tl.load(lam + r, mask=r < B, other=0.0)
    user, item = (w * gr / L)[:, None], ((1 - w) * gr / L)[:, None]
    if NEEDS & 1:
        code = tl.load(signs + r[:, None] * (2 * L) + L + l[None, :], mask=m, other=0).to(tl.int32)
        tl.store(gs + at, (user * _sign(code) + item * _sign(code >> 2)).to(gs.dtype.element_ty), mask=m)
    if NEEDS & 6:
        code = tl.load(signs + r[:, None] * (2 * L) + l[None, :], mask=m, other=0).to(tl.int32)
        if NEEDS & 2:
            tl.store(gu + at, (-user * _sign(code)).to(gu.dtype.element_ty), mask=m)
        if NEEDS & 4:
            tl.store(gv + at, (-item * _sign(code >> 2)).to(gv.dtype.element_ty), mask=m)
    if NEEDS & 8:
        tl.store(glam + r, gr * tl.load(slope + r, mask=r < B, other=0.0), mask=(r < B) & (tl.program_id(1) == 0))


def _tile(L: int) -> tuple[int, int, int]:
    """(BLOCK_B, BLOCK_L, warps): 4 to 16 keys a thread; 16 warps spill on sm_100."""
    BL = max(triton.next_power_of_2(L), 2)
    BB = max(512 // BL, 1)
    return BB, BL, 4 if BL <= 1024 else 8


def wasserstein_quantile_loss(samples: Tensor, q_user: Tensor, q_item: Tensor, lam: Tensor, needs: int) -> tuple[Tensor, Tensor, Tensor]:
    B, L = samples.shape
    if samples.dtype == torch.float64 or L > LONGEST:
        return reference.wasserstein_quantile_loss(samples, q_user, q_item, lam, needs)
    samples, q_user, q_item, lam = (t.contiguous() for t in (samples, q_user, q_item, lam))
    loss, slope = samples.new_empty(B), samples.new_empty(B, dtype=torch.float32)
    signs = samples.new_empty((B if needs else 0, 2, L), dtype=torch.uint8)
    if B:
        BB, BL, warps = _tile(L)
        with torch.cuda.device_of(samples):
            forward_kernel[(triton.cdiv(B, BB),)](
                samples, q_user, q_item, lam, loss, signs, slope, B, L, needs != 0, BB, BL, num_warps=warps
            )
    return loss, signs, slope


def wasserstein_quantile_loss_backward(signs: Tensor, slope: Tensor, lam: Tensor, g: Tensor, needs: int) -> tuple[Tensor, ...]:
    B, _, L = signs.shape
    if g.dtype == torch.float64:
        return reference.wasserstein_quantile_loss_backward(signs, slope, lam, g, needs)
    signs, slope, lam, g = (t.contiguous() for t in (signs, slope, lam, g))
    grads = [g.new_empty((B, L) if needs & bit else (0,)) for bit in (reference.SAMPLES, reference.Q_USER, reference.Q_ITEM)]
    glam = slope.new_empty(B if needs & reference.LAM else 0)
    if B:
        BL = min(max(triton.next_power_of_2(L), 2), 1024)
        BB = 1024 // BL
        with torch.cuda.device_of(g):
            backward_kernel[(triton.cdiv(B, BB), triton.cdiv(L, BL))](signs, slope, lam, g, *grads, glam, B, L, needs, BB, BL, num_warps=4)
    return *grads, glam


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, blocks = "*fp32", {"BLOCK_B": "constexpr", "BLOCK_L": "constexpr"}
    for t, L in (("*fp32", 20), ("*bf16", 32), ("*fp16", 128), ("*fp32", 4096)):
        BB, BL, warps = _tile(L)
        yield (
            forward_kernel,
            dict(samples=t, q_user=t, q_item=t, lam=f, loss=t, signs="*u8", slope=f, B="i32", L="i32", SIGNS="constexpr", **blocks),
            {"SIGNS": True, "BLOCK_B": BB, "BLOCK_L": BL},
            {"num_warps": warps},
        )
        BL = min(BL, 1024)
        yield (
            backward_kernel,
            dict(signs="*u8", slope=f, lam=f, g=t, gs=t, gu=t, gv=t, glam=f, B="i32", L="i32", NEEDS="constexpr", **blocks),
            {"NEEDS": 15, "BLOCK_B": 1024 // BL, "BLOCK_L": BL},
            {"num_warps": 4},
        )
