"""nested_min on a GPU.

It adds up in the order of k, as its definition says, so a program holds whole rows: tiles of CHUNK columns are loaded coalesced and
split into columns, one row per thread. The scan records where a row reaches its cap and what remains there; parts and gradients then
follow elementwise. Up to K = CHUNK every byte is read once, beyond that a second time, from the cache.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._increments import clip, compute_dtype
from ._launch import launch
from ._sizes import cdiv

CHUNK = 8  # columns of the scan's tiles
ROWS = 128  # rows of a program


@triton.jit
def _split(x, BLOCK_B: tl.constexpr):
    """[BLOCK_B, 8] -> its columns."""
    even, odd = tl.split(tl.reshape(x, [BLOCK_B, 4, 2]))
    c04, c26 = tl.split(tl.reshape(even, [BLOCK_B, 2, 2]))
    c15, c37 = tl.split(tl.reshape(odd, [BLOCK_B, 2, 2]))
    c0, c4 = tl.split(c04)
    c2, c6 = tl.split(c26)
    c1, c5 = tl.split(c15)
    c3, c7 = tl.split(c37)
    return c0, c1, c2, c3, c4, c5, c6, c7


@triton.jit
def _tile(v, w, r, k, B, K, SHARED: tl.constexpr, ACC: tl.constexpr):
    """(v, w, mask) [BLOCK_B, CHUNK]; zeros outside, which add nothing."""
    mask = (r < B)[:, None] & (k < K)[None, :]
    x = tl.load(v + r[:, None] * K + k[None, :], mask=mask, other=0.0).to(ACC)
    if SHARED:
        y = tl.load(w + k, mask=k < K, other=0.0).to(ACC)[None, :] + tl.zeros_like(x)
    else:
        y = tl.load(w + r[:, None] * K + k[None, :], mask=mask, other=0.0).to(ACC)
    return x, y, mask


@triton.jit
def _add(a, total, cap, remaining, uncapped, reached):
    space = cap - total
    below = a < space  # NaN counts as reached and stays
    remaining = tl.where(uncapped & (~below), tl.where(a == a, space, a), remaining)
    uncapped = uncapped & below
    return tl.where(uncapped, total + a, total), remaining, uncapped, reached + uncapped.to(tl.int32)


@triton.jit
def _scan(v, w, cap, r, B, K, SHARED: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr):
    """(sum below the cap, what remains at it, is it never reached, the k that reaches it), each [BLOCK_B]."""
    total = cap * 0
    total = tl.where(total == 0, total, 0.0)  # cap may be NaN
    remaining, uncapped, reached = total, total == 0, r.to(tl.int32) * 0
    for k0 in range(0, K, CHUNK):
        x, y, _ = _tile(v, w, r, k0 + tl.arange(0, CHUNK), B, K, SHARED, cap.dtype)
        a = clip(x, y)
        a0, a1, a2, a3, a4, a5, a6, a7 = _split(a, BLOCK_B)
        total, remaining, uncapped, reached = _add(a0, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a1, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a2, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a3, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a4, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a5, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a6, total, cap, remaining, uncapped, reached)
        total, remaining, uncapped, reached = _add(a7, total, cap, remaining, uncapped, reached)
    return total, remaining, uncapped, reached


@triton.jit
def _capacity(capacity, number, r, B, HAS: tl.constexpr, ACC: tl.constexpr):
    if HAS:
        return tl.load(capacity + r, mask=r < B, other=0.0).to(ACC)
    return (r * 0).to(ACC) + number


@triton.jit
def nested_kernel(
    v, w, capacity, number, value, out, B, K: tl.constexpr,
    SHARED: tl.constexpr, CAPPED: tl.constexpr, HAS_CAPACITY: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, CHUNK)
    if CAPPED:
        cap = _capacity(capacity, number, r, B, HAS_CAPACITY, ACC)
        total, remaining, uncapped, reached = _scan(v, w, cap, r, B, K, SHARED, BLOCK_B, CHUNK)
        is_nan = remaining != remaining
        tl.store(value + r, tl.where(uncapped, total, tl.where(is_nan, remaining, cap)).to(value.dtype.element_ty), mask=r < B)
        beyond = tl.where(is_nan, remaining, 0.0)
    else:
        total = tl.zeros([BLOCK_B], ACC)
    for k0 in range(0, K, CHUNK):
        x, y, mask = _tile(v, w, r, k0 + k, B, K, SHARED, ACC)
        part = clip(x, y)
        if CAPPED:
            at, stop = (k0 + k)[None, :], reached[:, None]
            part = tl.where(at < stop, part, tl.where(at == stop, remaining[:, None], beyond[:, None]))
        else:
            total += tl.sum(part, 1)
        tl.store(out + r[:, None] * K + (k0 + k)[None, :], part.to(out.dtype.element_ty), mask=mask)
    if not CAPPED:
        tl.store(value + r, total.to(value.dtype.element_ty), mask=r < B)


@triton.jit
def nested_backward_kernel(
    v, w, capacity, number, g_value, g_out, gv, gw, gc, B, K: tl.constexpr,
    SHARED: tl.constexpr, CAPPED: tl.constexpr, HAS_CAPACITY: tl.constexpr, HAS_GY: tl.constexpr, HAS_GO: tl.constexpr,
    WANT_W: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Shared widths: gw is [programs, K], a partial sum from each."""
    pid = tl.program_id(0).to(tl.int64)
    r = pid * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, CHUNK)
    base = tl.zeros([BLOCK_B], ACC)
    if HAS_GY:
        base = tl.load(g_value + r, mask=r < B, other=0.0).to(ACC)
    if CAPPED:
        cap = _capacity(capacity, number, r, B, HAS_CAPACITY, ACC)
        _total, _remaining, _uncapped, reached = _scan(v, w, cap, r, B, K, SHARED, BLOCK_B, CHUNK)
        capped = reached < K
        at_cap = tl.zeros([BLOCK_B], ACC)
        if HAS_GO:
            at_cap = tl.load(g_out + r * K + reached, mask=(r < B) & capped, other=0.0).to(ACC)
        if HAS_CAPACITY:
            tl.store(gc + r, tl.where(capped, at_cap + base, 0.0).to(gc.dtype.element_ty), mask=r < B)
        base = tl.where(capped, -at_cap, base)
    for k0 in range(0, K, CHUNK):
        x, y, mask = _tile(v, w, r, k0 + k, B, K, SHARED, ACC)
        offsets = r[:, None] * K + (k0 + k)[None, :]
        g = base[:, None] + tl.zeros_like(x)
        if HAS_GO:
            g += tl.load(g_out + offsets, mask=mask, other=0.0).to(ACC)
        if CAPPED:
            g = tl.where((k0 + k)[None, :] < reached[:, None], g, 0.0)
        tl.store(gv + offsets, tl.where((x >= 0) & (x <= y), g, 0.0).to(gv.dtype.element_ty), mask=mask)
        if WANT_W:
            above = tl.where(mask & (x > y), g, 0.0)
            if SHARED:
                tl.store(gw + pid * K + k0 + k, tl.sum(above, 0), mask=k0 + k < K)
            else:
                tl.store(gw + offsets, above.to(gw.dtype.element_ty), mask=mask)


def _capacity_args(v: Tensor, capacity: Tensor | None, cap: float) -> tuple[Tensor, float, bool, bool]:
    """(capacity, number, capped, has capacity); a number that fp32 arguments cannot hold becomes a tensor."""
    if capacity is None and cap != math.inf and v.dtype == torch.float64:
        capacity = v.new_full((v.shape[0],), cap)
    number = cap if capacity is None and cap != math.inf else 0.0
    return (v if capacity is None else capacity.contiguous()), number, capacity is not None or cap != math.inf, capacity is not None


def nested_min(increments: Tensor, widths: Tensor, capacity: Tensor | None, cap: float) -> tuple[Tensor, Tensor]:
    B, K = increments.shape
    value, out = increments.new_empty(B), increments.new_empty(B, K)
    if B:
        v, w = increments.contiguous(), widths.contiguous()
        c, number, capped, has = _capacity_args(v, capacity, cap)
        launch(
            nested_kernel, (cdiv(B, ROWS),),
            v, w, c, number, value, out, B, K, w.dim() == 1, capped, has, ROWS, CHUNK, compute_dtype(v)[1], num_warps=4,
        )  # fmt: skip
    return value, out


def nested_min_backward(
    increments: Tensor,
    widths: Tensor,
    capacity: Tensor | None,
    g_value: Tensor | None,
    g_clipped: Tensor | None,
    cap: float,
    grad_mask: int,
) -> tuple[Tensor, Tensor, Tensor]:
    B, K = increments.shape
    gv = increments.new_empty(B, K)
    want_w, shared = bool(grad_mask & 2), widths.dim() == 1
    if not B:
        return gv, widths.new_zeros(widths.shape if want_w else 0), increments.new_empty(0)
    v, w = increments.contiguous(), widths.contiguous()
    programs = cdiv(B, ROWS)
    gw = v.new_empty(programs, K, dtype=compute_dtype(v)[0]) if shared and want_w else widths.new_empty(widths.shape if want_w else 0)
    c, number, capped, has = _capacity_args(v, capacity, cap)
    gc = increments.new_empty(B if has else 0)
    gy, go = (v if g is None else g.contiguous() for g in (g_value, g_clipped))
    launch(
        nested_backward_kernel, (programs,),
        v, w, c, number, gy, go, gv, gw, gc, B, K,
        shared, capped, has, g_value is not None, g_clipped is not None, want_w,
        ROWS, CHUNK, compute_dtype(v)[1], num_warps=4,
    )  # fmt: skip
    return gv, gw.sum(0).to(widths.dtype) if shared and want_w else gw, gc if capacity is not None else gc[:0]


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    options = {"num_warps": 4}
    flags = ("K", "SHARED", "CAPPED", "HAS_CAPACITY", "BLOCK_B", "CHUNK", "ACC")
    for dtype, K, shared, cap, both in (
        ("fp32", 8, True, "number", False), ("fp32", 64, False, "rows", True), ("bf16", 20, True, "none", True),
        ("fp64", 33, False, "rows", True),
    ):  # fmt: skip
        p, acc = f"*{dtype}", tl.float64 if dtype == "fp64" else tl.float32
        values = {"K": K, "SHARED": shared, "CAPPED": cap != "none", "HAS_CAPACITY": cap == "rows"}
        values |= {"BLOCK_B": ROWS, "CHUNK": CHUNK, "ACC": acc}
        arguments = dict(v=p, w=p, capacity=p, number="fp32", B="i32") | dict.fromkeys(flags, "constexpr")
        yield nested_kernel, arguments | dict(value=p, out=p), values, options
        gw = p if not shared else "*fp32"
        backward = dict(g_value=p, g_out=p, gv=p, gw=gw, gc=p) | dict.fromkeys(("HAS_GY", "HAS_GO", "WANT_W"), "constexpr")
        yield nested_backward_kernel, arguments | backward, values | {"HAS_GY": True, "HAS_GO": both, "WANT_W": True}, options
