"""encode_increments and nested_min on a GPU.

nested_min adds up in the order of k, as its definition says, so a program holds whole rows: tiles of CHUNK columns are loaded
coalesced and split into columns, one row per thread. The scan leaves where a row reaches its cap and what is left there; parts and
gradients then follow elementwise. Up to K = CHUNK every byte is read once, beyond that a second time, from the cache.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 8  # columns of the scan's tiles
ROWS = 128  # rows of a program of nested_min
TILE = 1024  # elements of a program of encode_increments


@triton.jit
def _clip(v, w):
    """torch.clamp(v, 0, w): NaN of either goes through."""
    a = tl.where(v < 0, 0.0, v)
    return tl.where(a <= w, a, tl.where(a == a, w, a))


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
        y = tl.load(w + k, mask=k < K, other=0.0).to(ACC)[None, :] + x * 0
    else:
        y = tl.load(w + r[:, None] * K + k[None, :], mask=mask, other=0.0).to(ACC)
    return x, y, mask


@triton.jit
def _step(a, total, cap, left, live, first):
    rest = cap - total
    below = a < rest  # NaN counts as reached and stays
    left = tl.where(live & (~below), tl.where(a == a, rest, a), left)
    live = live & below
    return tl.where(live, total + a, total), left, live, first + live.to(tl.int32)


@triton.jit
def _scan(v, w, cap, r, B, K, SHARED: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr):
    """(sum of what is below the cap, what is left at it, is it never reached, how many k are below), each [BLOCK_B]."""
    total = cap * 0
    total = tl.where(total == 0, total, 0.0)  # cap may be NaN
    left, live, first = total, total == 0, r.to(tl.int32) * 0
    for k0 in range(0, K, CHUNK):
        x, y, _ = _tile(v, w, r, k0 + tl.arange(0, CHUNK), B, K, SHARED, cap.dtype)
        a = _clip(x, y)
        a0, a1, a2, a3, a4, a5, a6, a7 = _split(a, BLOCK_B)
        total, left, live, first = _step(a0, total, cap, left, live, first)
        total, left, live, first = _step(a1, total, cap, left, live, first)
        total, left, live, first = _step(a2, total, cap, left, live, first)
        total, left, live, first = _step(a3, total, cap, left, live, first)
        total, left, live, first = _step(a4, total, cap, left, live, first)
        total, left, live, first = _step(a5, total, cap, left, live, first)
        total, left, live, first = _step(a6, total, cap, left, live, first)
        total, left, live, first = _step(a7, total, cap, left, live, first)
    return total, left, live, first


@triton.jit
def _capacity(capacity, number, r, B, HAS: tl.constexpr, ACC: tl.constexpr):
    if HAS:
        return tl.load(capacity + r, mask=r < B, other=0.0).to(ACC)
    return (r * 0).to(ACC) + number


@triton.jit
def nested_kernel(
    v, w, capacity, number, value, out, B, K,
    SHARED: tl.constexpr, CAPPED: tl.constexpr, HAS_CAPACITY: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, CHUNK)
    if CAPPED:
        cap = _capacity(capacity, number, r, B, HAS_CAPACITY, ACC)
        total, left, live, first = _scan(v, w, cap, r, B, K, SHARED, BLOCK_B, CHUNK)
        bad = left != left
        tl.store(value + r, tl.where(live, total, tl.where(bad, left, cap)).to(value.dtype.element_ty), mask=r < B)
        after = tl.where(bad, left, 0.0)
    else:
        total = tl.zeros([BLOCK_B], ACC)
    for k0 in range(0, K, CHUNK):
        x, y, mask = _tile(v, w, r, k0 + k, B, K, SHARED, ACC)
        part = _clip(x, y)
        if CAPPED:
            at, stop = (k0 + k)[None, :], first[:, None]
            part = tl.where(at < stop, part, tl.where(at == stop, left[:, None], after[:, None]))
        else:
            total += tl.sum(part, 1)
        tl.store(out + r[:, None] * K + (k0 + k)[None, :], part.to(out.dtype.element_ty), mask=mask)
    if not CAPPED:
        tl.store(value + r, total.to(value.dtype.element_ty), mask=r < B)


@triton.jit
def nested_backward_kernel(
    v, w, capacity, number, g_value, g_out, gv, gw, gc, B, K,
    SHARED: tl.constexpr, CAPPED: tl.constexpr, HAS_CAPACITY: tl.constexpr, HAS_GY: tl.constexpr, HAS_GO: tl.constexpr,
    WANT_W: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Shared widths: gw is [programs, K], a part of the sum from each."""
    pid = tl.program_id(0).to(tl.int64)
    r = pid * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, CHUNK)
    base = tl.zeros([BLOCK_B], ACC)
    if HAS_GY:
        base = tl.load(g_value + r, mask=r < B, other=0.0).to(ACC)
    if CAPPED:
        cap = _capacity(capacity, number, r, B, HAS_CAPACITY, ACC)
        _total, _left, _live, first = _scan(v, w, cap, r, B, K, SHARED, BLOCK_B, CHUNK)
        capped = first < K
        at_cap = tl.zeros([BLOCK_B], ACC)
        if HAS_GO:
            at_cap = tl.load(g_out + r * K + first, mask=(r < B) & capped, other=0.0).to(ACC)
        if HAS_CAPACITY:
            tl.store(gc + r, tl.where(capped, at_cap + base, 0.0).to(gc.dtype.element_ty), mask=r < B)
        base = tl.where(capped, -at_cap, base)
    for k0 in range(0, K, CHUNK):
        x, y, mask = _tile(v, w, r, k0 + k, B, K, SHARED, ACC)
        place = r[:, None] * K + (k0 + k)[None, :]
        g = base[:, None] + x * 0
        g = tl.where(x == x, g, base[:, None])
        if HAS_GO:
            g += tl.load(g_out + place, mask=mask, other=0.0).to(ACC)
        if CAPPED:
            g = tl.where((k0 + k)[None, :] < first[:, None], g, 0.0)
        tl.store(gv + place, tl.where((x >= 0) & (x <= y), g, 0.0).to(gv.dtype.element_ty), mask=mask)
        if WANT_W:
            above = tl.where(mask & (x > y), g, 0.0)
            if SHARED:
                tl.store(gw + pid * K + k0 + k, tl.sum(above, 0), mask=k0 + k < K)
            else:
                tl.store(gw + place, above.to(gw.dtype.element_ty), mask=mask)


@triton.jit
def _edges(w, r, k, B, K, SHARED: tl.constexpr, ACC: tl.constexpr):
    """(lower edges, widths), [1 or BLOCK_B, BLOCK_K]."""
    if SHARED:
        place, mask = k[None, :], (k < K)[None, :]
    else:
        place, mask = r[:, None] * K + k[None, :], (r < B)[:, None] & (k < K)[None, :]
    before = tl.load(w + place - 1, mask=mask & (k > 0)[None, :], other=0.0).to(ACC)
    return tl.cumsum(before, 1), tl.load(w + place, mask=mask, other=0.0).to(ACC)


@triton.jit
def encode_kernel(y, w, out, B, K, SHARED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, BLOCK_K)
    edge, width = _edges(w, r, k, B, K, SHARED, ACC)
    d = tl.load(y + r, mask=r < B, other=0.0).to(ACC)[:, None] - edge
    mask = (r < B)[:, None] & (k < K)[None, :]
    tl.store(out + r[:, None] * K + k[None, :], _clip(d, width + d * 0).to(out.dtype.element_ty), mask=mask)


@triton.jit
def encode_backward_kernel(
    y, w, g, gy, gw, B, K, SHARED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Shared widths: gw is [programs, 2, K], from each what passes and what lies above."""
    pid = tl.program_id(0).to(tl.int64)
    r = pid * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, BLOCK_K)
    mask = (r < B)[:, None] & (k < K)[None, :]
    edge, width = _edges(w, r, k, B, K, SHARED, ACC)
    d = tl.load(y + r, mask=r < B, other=0.0).to(ACC)[:, None] - edge
    go = tl.load(g + r[:, None] * K + k[None, :], mask=mask, other=0.0).to(ACC)
    inside = tl.where((d >= 0) & (d <= width), go, 0.0)
    above = tl.where(d > width, go, 0.0)
    tl.store(gy + r, tl.sum(inside, 1).to(gy.dtype.element_ty), mask=r < B)
    if SHARED:
        tl.store(gw + pid * 2 * K + k, tl.sum(inside, 0), mask=k < K)
        tl.store(gw + pid * 2 * K + K + k, tl.sum(above, 0), mask=k < K)
    else:
        later = tl.cumsum(inside, 1, reverse=True) - inside
        tl.store(gw + r[:, None] * K + k[None, :], (above - later).to(gw.dtype.element_ty), mask=mask)


def _acc(t: Tensor) -> tuple[torch.dtype, Any]:
    return (torch.float64, tl.float64) if t.dtype == torch.float64 else (torch.float32, tl.float32)


def _capacity_args(v: Tensor, capacity: Tensor | None, cap: float) -> tuple[Tensor, float, bool, bool]:
    """(capacity, number, capped, has capacity); a number that fp32 arguments cannot hold becomes a tensor."""
    if capacity is None and cap != math.inf and v.dtype == torch.float64:
        capacity = v.new_full((v.shape[0],), cap)
    number = cap if capacity is None and cap != math.inf else 0.0
    return (v if capacity is None else capacity.contiguous()), number, capacity is not None or cap != math.inf, capacity is not None


def nested_min(increments: Tensor, widths: Tensor, capacity: Tensor | None, cap: float) -> tuple[Tensor, Tensor]:
    B, K = increments.shape
    value, out = increments.new_empty(B), increments.new_empty((B, K))
    if B:
        v, w = increments.contiguous(), widths.contiguous()
        c, number, capped, has = _capacity_args(v, capacity, cap)
        with torch.cuda.device_of(v):
            nested_kernel[(triton.cdiv(B, ROWS),)](
                v, w, c, number, value, out, B, K, w.dim() == 1, capped, has, ROWS, CHUNK, _acc(v)[1], num_warps=4
            )  # fmt: skip
    return value, out


def nested_min_backward(
    increments: Tensor, widths: Tensor, capacity: Tensor | None, g_value: Tensor | None, g_clipped: Tensor | None, cap: float, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    B, K = increments.shape
    gv = increments.new_empty((B, K))
    want_w, shared = bool(wanted & 2), widths.dim() == 1
    if not B:
        return gv, widths.new_zeros(widths.shape if want_w else 0), increments.new_empty(0)
    v, w = increments.contiguous(), widths.contiguous()
    programs = triton.cdiv(B, ROWS)
    gw = v.new_empty((programs, K), dtype=_acc(v)[0]) if shared and want_w else widths.new_empty(widths.shape if want_w else 0)
    c, number, capped, has = _capacity_args(v, capacity, cap)
    gc = increments.new_empty(B if has else 0)
    gy, go = (v if g is None else g.contiguous() for g in (g_value, g_clipped))
    with torch.cuda.device_of(v):
        nested_backward_kernel[(programs,)](
            v, w, c, number, gy, go, gv, gw, gc, B, K,
            shared, capped, has, g_value is not None, g_clipped is not None, want_w,
            ROWS, CHUNK, _acc(v)[1], num_warps=4,
        )  # fmt: skip
    return gv, gw.sum(0).to(widths.dtype) if shared and want_w else gw, gc if capacity is not None else gc[:0]


def encode_increments(y: Tensor, widths: Tensor) -> Tensor:
    B, K = y.shape[0], widths.shape[-1]
    out = y.new_empty((B, K))
    if B:
        y, w = y.contiguous(), widths.contiguous()
        block_b, block_k, warps = _encode_tile(K)
        with torch.cuda.device_of(y):
            encode_kernel[(triton.cdiv(B, block_b),)](y, w, out, B, K, w.dim() == 1, block_b, block_k, _acc(y)[1], num_warps=warps)
    return out


def encode_increments_backward(y: Tensor, widths: Tensor, g: Tensor | None, wanted: int) -> tuple[Tensor, Tensor]:
    B, K = y.shape[0], widths.shape[-1]
    if g is None or not B:
        return y.new_zeros(B), widths.new_zeros(widths.shape)
    y, w, g = y.contiguous(), widths.contiguous(), g.contiguous()
    block_b, block_k, warps = _encode_tile(K)
    programs, shared = triton.cdiv(B, block_b), w.dim() == 1
    gy = y.new_empty(B)
    gw = y.new_empty((programs, 2, K), dtype=_acc(y)[0]) if shared else w.new_empty(w.shape)
    with torch.cuda.device_of(y):
        encode_backward_kernel[(programs,)](y, w, g, gy, gw, B, K, shared, block_b, block_k, _acc(y)[1], num_warps=warps)
    if shared:
        inside, above = gw.sum(0)
        gw = (above - (inside.flip(0).cumsum(0).flip(0) - inside)).to(w.dtype)
    return gy, gw


def _encode_tile(K: int) -> tuple[int, int, int]:
    """(BLOCK_B, BLOCK_K, num_warps)."""
    block_k = triton.next_power_of_2(K)
    return max(1, TILE // block_k), block_k, 4 if block_k <= 2048 else 16


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    warps = {"num_warps": 4}
    flags = ("SHARED", "CAPPED", "HAS_CAPACITY", "BLOCK_B", "CHUNK", "ACC")
    for dtype, shared, form, full in (
        ("fp32", True, "number", False),
        ("fp32", False, "rows", True),
        ("bf16", True, "none", True),
        ("fp64", False, "rows", True),
    ):
        p, acc = f"*{dtype}", tl.float64 if dtype == "fp64" else tl.float32
        values = {"SHARED": shared, "CAPPED": form != "none", "HAS_CAPACITY": form == "rows", "BLOCK_B": ROWS, "CHUNK": CHUNK, "ACC": acc}
        base = dict(v=p, w=p, capacity=p, number="fp32", B="i32", K="i32") | dict.fromkeys(flags, "constexpr")
        yield nested_kernel, base | dict(value=p, out=p), values, warps
        part = ("*fp64" if dtype == "fp64" else "*fp32") if shared else p
        more = dict(g_value=p, g_out=p, gv=p, gw=part, gc=p) | dict.fromkeys(("HAS_GY", "HAS_GO", "WANT_W"), "constexpr")
        yield nested_backward_kernel, base | more, values | {"HAS_GY": True, "HAS_GO": full, "WANT_W": True}, warps
        for K in (8, 64):
            block_b, block_k, n = _encode_tile(K)
            values = {"SHARED": shared, "BLOCK_B": block_b, "BLOCK_K": block_k, "ACC": acc}
            base_ = dict(y=p, w=p, B="i32", K="i32") | dict.fromkeys(values, "constexpr")
            yield encode_kernel, base_ | dict(out=p), values, {"num_warps": n}
            yield encode_backward_kernel, base_ | dict(g=p, gy=p, gw=part), values, {"num_warps": n}
