"""encode_increments on a GPU: a program holds whole rows and makes the lower edges by a prefix sum."""

from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._increments import clip, compute_dtype
from ._launch import launch
from ._sizes import cdiv, next_power_of_2

TILE = 1024  # elements of a program


@triton.jit
def _edges(w, r, k, B, K, SHARED: tl.constexpr, ACC: tl.constexpr):
    """(lower edges, widths), [1 or BLOCK_B, BLOCK_K]."""
    if SHARED:
        offsets, mask = k[None, :], (k < K)[None, :]
    else:
        offsets, mask = r[:, None] * K + k[None, :], (r < B)[:, None] & (k < K)[None, :]
    before = tl.load(w + offsets - 1, mask=mask & (k > 0)[None, :], other=0.0).to(ACC)
    return tl.cumsum(before, 1), tl.load(w + offsets, mask=mask, other=0.0).to(ACC)


@triton.jit
def encode_kernel(y, w, out, B, K, SHARED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, BLOCK_K)
    edge, width = _edges(w, r, k, B, K, SHARED, ACC)
    d = tl.load(y + r, mask=r < B, other=0.0).to(ACC)[:, None] - edge
    mask = (r < B)[:, None] & (k < K)[None, :]
    tl.store(out + r[:, None] * K + k[None, :], clip(d, width + tl.zeros_like(d)).to(out.dtype.element_ty), mask=mask)


@triton.jit
def encode_backward_kernel(
    y, w, g, gy, gw, B, K, SHARED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Shared widths: gw is [programs, 2, K], from each the sums of the gradients inside and above."""
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


def encode_increments(y: Tensor, widths: Tensor) -> Tensor:
    B, K = y.shape[0], widths.shape[-1]
    out = y.new_empty(B, K)
    if B:
        y, w = y.contiguous(), widths.contiguous()
        block_b, block_k, warps = _tile(K)
        launch(encode_kernel, (cdiv(B, block_b),), y, w, out, B, K, w.dim() == 1, block_b, block_k, compute_dtype(y)[1], num_warps=warps)
    return out


def encode_increments_backward(y: Tensor, widths: Tensor, g: Tensor | None, grad_mask: int) -> tuple[Tensor, Tensor]:
    B, K = y.shape[0], widths.shape[-1]
    if g is None or not B:
        return y.new_zeros(B), widths.new_zeros(widths.shape)
    y, w, g = y.contiguous(), widths.contiguous(), g.contiguous()
    block_b, block_k, warps = _tile(K)
    programs, shared = cdiv(B, block_b), w.dim() == 1
    gy = y.new_empty(B)
    gw = y.new_empty(programs, 2, K, dtype=compute_dtype(y)[0]) if shared else w.new_empty(w.shape)
    launch(encode_backward_kernel, (programs,), y, w, g, gy, gw, B, K, shared, block_b, block_k, compute_dtype(y)[1], num_warps=warps)
    if shared:
        inside, above = gw.sum(0)
        gw = (above - (inside.flip(0).cumsum(0).flip(0) - inside)).to(w.dtype)
    return gy, gw


def _tile(K: int) -> tuple[int, int, int]:
    """(BLOCK_B, BLOCK_K, num_warps)."""
    block_k = next_power_of_2(K)
    return max(1, TILE // block_k), block_k, 4 if block_k <= 2048 else 16


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    for dtype, shared in (("fp32", True), ("fp32", False), ("bf16", True), ("fp64", False)):
        p, acc = f"*{dtype}", tl.float64 if dtype == "fp64" else tl.float32
        for K in (8, 64):
            block_b, block_k, warps = _tile(K)
            values = {"SHARED": shared, "BLOCK_B": block_b, "BLOCK_K": block_k, "ACC": acc}
            arguments = dict(y=p, w=p, B="i32", K="i32") | dict.fromkeys(values, "constexpr")
            yield encode_kernel, arguments | dict(out=p), values, {"num_warps": warps}
            gw = p if not shared else "*fp32"
            yield encode_backward_kernel, arguments | dict(g=p, gy=p, gw=gw), values, {"num_warps": warps}
