"""Wasserstein quantile loss in Triton: BLOCK_B rows a program, each sorted in registers.

fp64, and rows longer than LONGEST_SORT, have no such kernel: there the launcher sorts with torch.sort and computes in torch, on the
same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import wasserstein_quantile_loss as reference
from ._launch import launch
from ._rows import LONGEST_SORT, row_tile, sort_rows, sort_tile
from ._sizes import cdiv


@triton.jit
def _sign_code(x):  # 0: zero, 1: positive, 2: negative, 3: NaN
    return (x > 0).to(tl.int32) + 2 * (x < 0).to(tl.int32) + 3 * (x != x).to(tl.int32)


@triton.jit
def _sign(code):
    c = code & 3
    return tl.where(c == 3, float("nan"), ((c & 1) - (c >> 1)).to(tl.float32))


@triton.jit
def _mean(x, L):
    total = tl.sum(x, 1)
    return tl.where(total == float("inf"), tl.sum(x / L, 1), total / L)  # the sum may overflow where the mean does not


@triton.jit
def wasserstein_kernel(
    samples, q_user, q_item, lam, loss, signs, slope, B, L: tl.constexpr, SIGNS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.arange(0, BLOCK_L)  # noqa: E741
    mask = (r < B)[:, None] & (l < L)[None, :]
    offsets = r[:, None] * L + l[None, :]
    s, column = sort_rows(tl.load(samples + offsets, mask=mask, other=0.0).to(tl.float32), l, L)  # [BLOCK_B, BLOCK_L]
    a = tl.where(mask, s - tl.load(q_user + offsets, mask=mask, other=0.0).to(tl.float32), 0.0)
    b = tl.where(mask, s - tl.load(q_item + offsets, mask=mask, other=0.0).to(tl.float32), 0.0)
    to_user, to_item = _mean(tl.abs(a), L), _mean(tl.abs(b), L)
    w = tl.load(lam + r, mask=r < B, other=0.0)
    tl.store(loss + r, (w * to_user + (1 - w) * to_item).to(loss.dtype.element_ty), mask=r < B)
    tl.store(slope + r, to_user - to_item, mask=r < B)
    if SIGNS:  # once in the order of the quantiles, once in that of the samples
        code = (_sign_code(a) + 4 * _sign_code(b)).to(tl.uint8)
        tl.store(signs + r[:, None] * (2 * L) + l[None, :], code, mask=mask)
        tl.store(signs + r[:, None] * (2 * L) + L + column, code, mask=mask)


@triton.jit
def wasserstein_backward_kernel(
    signs, slope, lam, g, gs, gu, gv, glam, B, L: tl.constexpr, GRAD_MASK: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)  # noqa: E741
    mask = (r < B)[:, None] & (l < L)[None, :]
    offsets = r[:, None] * L + l[None, :]
    gr = tl.load(g + r, mask=r < B, other=0.0).to(tl.float32)
    w = tl.load(lam + r, mask=r < B, other=0.0)
    user, item = (w * gr / L)[:, None], ((1 - w) * gr / L)[:, None]
    if GRAD_MASK & 1:
        code = tl.load(signs + r[:, None] * (2 * L) + L + l[None, :], mask=mask, other=0).to(tl.int32)
        tl.store(gs + offsets, (user * _sign(code) + item * _sign(code >> 2)).to(gs.dtype.element_ty), mask=mask)
    if GRAD_MASK & 6:
        code = tl.load(signs + r[:, None] * (2 * L) + l[None, :], mask=mask, other=0).to(tl.int32)
        if GRAD_MASK & 2:
            tl.store(gu + offsets, (-user * _sign(code)).to(gu.dtype.element_ty), mask=mask)
        if GRAD_MASK & 4:
            tl.store(gv + offsets, (-item * _sign(code >> 2)).to(gv.dtype.element_ty), mask=mask)
    if GRAD_MASK & 8:
        tl.store(glam + r, gr * tl.load(slope + r, mask=r < B, other=0.0), mask=(r < B) & (tl.program_id(1) == 0))


def wasserstein_quantile_loss(
    samples: Tensor, q_user: Tensor, q_item: Tensor, lam: Tensor, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    B, L = samples.shape
    if samples.dtype == torch.float64 or L > LONGEST_SORT:
        return reference.wasserstein_quantile_loss(samples, q_user, q_item, lam, grad_mask)
    samples, q_user, q_item, lam = (t.contiguous() for t in (samples, q_user, q_item, lam))
    loss, slope = samples.new_empty(B), samples.new_empty(B, dtype=torch.float32)
    signs = samples.new_empty(B if grad_mask else 0, 2, L, dtype=torch.uint8)
    if B:
        block_b, block_l = sort_tile(L)
        launch(
            wasserstein_kernel, (cdiv(B, block_b),),
            samples, q_user, q_item, lam, loss, signs, slope, B, L, grad_mask != 0, block_b, block_l, num_warps=4,
        )  # fmt: skip
    return loss, signs, slope


def wasserstein_quantile_loss_backward(signs: Tensor, slope: Tensor, lam: Tensor, g: Tensor, grad_mask: int) -> tuple[Tensor, ...]:
    B, _, L = signs.shape
    if g.dtype == torch.float64:
        return reference.wasserstein_quantile_loss_backward(signs, slope, lam, g, grad_mask)
    signs, slope, lam, g = (t.contiguous() for t in (signs, slope, lam, g))
    grads = [g.new_empty((B, L) if grad_mask & bit else (0,)) for bit in (reference.SAMPLES, reference.Q_USER, reference.Q_ITEM)]
    glam = slope.new_empty(B if grad_mask & reference.LAM else 0)
    if B:
        block_b, block_l = row_tile(L)
        grid = cdiv(B, block_b), cdiv(L, block_l)
        launch(wasserstein_backward_kernel, grid, signs, slope, lam, g, *grads, glam, B, L, grad_mask, block_b, block_l, num_warps=4)
    return *grads, glam


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, options = "*fp32", {"num_warps": 4}
    for t, L in (("*fp32", 20), ("*bf16", 128), ("*fp16", LONGEST_SORT)):
        block_b, block_l = sort_tile(L)
        values = {"L": L, "SIGNS": True, "BLOCK_B": block_b, "BLOCK_L": block_l}
        arguments = dict(samples=t, q_user=t, q_item=t, lam=f, loss=t, signs="*u8", slope=f, B="i32")
        yield wasserstein_kernel, arguments | dict.fromkeys(values, "constexpr"), values, options
        block_b, block_l = row_tile(L)
        values = {"L": L, "GRAD_MASK": 15, "BLOCK_B": block_b, "BLOCK_L": block_l}
        arguments = dict(signs="*u8", slope=f, lam=f, g=t, gs=t, gu=t, gv=t, glam=f, B="i32")
        yield wasserstein_backward_kernel, arguments | dict.fromkeys(values, "constexpr"), values, options
