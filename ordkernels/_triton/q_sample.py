"""Noising on a GPU: each byte read and written once. `flow_sample` is the kind whose weights are 1 - t and t."""

import math
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._diffusion import TILE, DiffusionRows, load_level, tile_offsets
from ._launch import launch, output_like
from ._sizes import next_power_of_2


@triton.jit
def _weights(t, FLOWS: tl.constexpr):
    if FLOWS:
        c0, c1 = 1.0 - t, t
    else:
        c0, c1 = tl.sqrt(t), tl.sqrt(1.0 - t)
    return c0, c1


@triton.jit
def _row_weights(t, t_b, t_k, c0, c1, b, k, rm, PER_ROW: tl.constexpr, FLOWS: tl.constexpr, ACC: tl.constexpr):
    if PER_ROW:
        c0, c1 = _weights(load_level(t, b, k, t_b, t_k, rm), FLOWS)
        c0, c1 = c0[:, None].to(ACC), c1[:, None].to(ACC)
    else:
        zero = (b[:, None] * 0).to(ACC)
        c0, c1 = zero + c0, zero + c1
    return c0, c1


@triton.jit
def sample_kernel(
    x0, noise, t, out, c0, c1, t_b, t_k, R, K, D, tiles,
    PER_ROW: tl.constexpr, FLOWS: tl.constexpr, X_PER_B: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    _r, b, k, tile, at, rm, mask = tile_offsets(R, K, D, tiles, BLOCK_R, BLOCK_D)
    c0, c1 = _row_weights(t, t_b, t_k, c0, c1, b, k, rm, PER_ROW, FLOWS, ACC)
    xat = at
    if X_PER_B:
        xat = b[:, None] * D + (tile * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    xv = tl.load(x0 + xat, mask=mask, other=0.0).to(ACC)
    y = c0 * xv + c1 * tl.load(noise + at, mask=mask, other=0.0).to(ACC)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def sample_backward_kernel(
    x0, noise, t, g, gx, gn, dots, c0, c1, t_b, t_k, B, K, D, tiles,
    PER_ROW: tl.constexpr, FLOWS: tl.constexpr, X_PER_B: tl.constexpr, WANT_X: tl.constexpr, WANT_N: tl.constexpr, DOTS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program takes rows b with all their copies k, so that the gradient of an x0 [B, D] is summed in order."""
    b, _b, _k, tile, xat, bm, xmask = tile_offsets(B, 1, D, tiles, BLOCK_R, BLOCK_D)
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    for k in range(K):
        r = b * K + k
        at = r[:, None] * D + d[None, :]
        m0, m1 = _row_weights(t, t_b, t_k, c0, c1, b, b * 0 + k, bm, PER_ROW, FLOWS, ACC)
        gv = tl.load(g + at, mask=xmask, other=0.0).to(ACC)
        if WANT_N:
            tl.store(gn + at, (m1 * gv).to(gn.dtype.element_ty), mask=xmask)
        if WANT_X:
            if X_PER_B:
                total += m0 * gv
            else:
                tl.store(gx + at, (m0 * gv).to(gx.dtype.element_ty), mask=xmask)
        if DOTS > 0:
            xp = xat if X_PER_B else at
            to = dots + (tile * B * K + r) * 2
            tl.store(to, tl.sum(gv * tl.load(x0 + xp, mask=xmask, other=0.0).to(ACC), 1), mask=bm)
            tl.store(to + 1, tl.sum(gv * tl.load(noise + at, mask=xmask, other=0.0).to(ACC), 1), mask=bm)
    if WANT_X and X_PER_B:
        tl.store(gx + xat, total.to(gx.dtype.element_ty), mask=xmask)


def _host_weights(kind: int, t: float) -> tuple[float, float]:
    return (1 - t, t) if kind else (math.sqrt(t), math.sqrt(1 - t))


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, a: float, kind: int) -> Tensor:
    out = output_like(noise)
    if out.numel() == 0:
        return out
    x0, noise = x0.contiguous(), noise.contiguous()
    rows = DiffusionRows(noise, ((alpha_bar, a),))
    launch(
        sample_kernel, rows.grid(rows.R),
        x0, noise, rows.levels[0], out, *_host_weights(kind, a), *rows.strides, rows.R, rows.K, rows.D, rows.tiles,
        rows.per_row, kind == 1, x0.dim() < noise.dim(), rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
    )  # fmt: skip
    return out


def q_sample_backward(
    x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    gx, gn = output_like(x0) if grad_mask & 1 else x0.new_empty(0), output_like(noise) if grad_mask & 2 else noise.new_empty(0)
    rows = DiffusionRows(noise, ((alpha_bar, a),))
    n = 2 if grad_mask & 4 else 0
    if noise.numel() == 0 or g is None:
        return gx.zero_(), gn.zero_(), noise.new_zeros((*noise.shape[:-1], n) if n else 0, dtype=rows.acc)
    x0, noise, g = x0.contiguous(), noise.contiguous(), g.contiguous()
    parts = rows.new_dots(noise, n)
    launch(
        sample_backward_kernel, rows.grid(rows.B),
        x0, noise, rows.levels[0], g, gx, gn, parts, *_host_weights(kind, a), *rows.strides, rows.B, rows.K, rows.D, rows.tiles,
        rows.per_row, kind == 1, x0.dim() < noise.dim(), bool(grad_mask & 1), bool(grad_mask & 2), n,
        rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
    )  # fmt: skip
    return gx, gn, parts[0] if rows.tiles == 1 or not n else parts.sum(0)


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    for dtype, per_row, flows, D in (
        ("fp32", False, False, 64), ("fp32", True, False, 64), ("bf16", True, False, 128), ("fp64", True, False, 30),
        ("fp32", True, True, 4096),
    ):  # fmt: skip
        p, acc = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
        block_d = min(next_power_of_2(D), TILE)
        values = {"PER_ROW": per_row, "FLOWS": flows, "X_PER_B": per_row}
        values |= {"BLOCK_R": TILE // block_d, "BLOCK_D": block_d, "ACC": tl.float64 if dtype == "fp64" else tl.float32}
        base = dict(x0=p, noise=p, t=acc, c0="fp32", c1="fp32") | dict.fromkeys(("t_b", "t_k", "K", "D", "tiles"), "i32")
        yield sample_kernel, base | dict(out=p, R="i32") | dict.fromkeys(values, "constexpr"), values, {"num_warps": 8}
        values = values | {"WANT_X": True, "WANT_N": True, "DOTS": 2 if per_row else 0}
        grads = dict(g=p, gx=p, gn=p, dots=acc, B="i32")
        yield sample_backward_kernel, base | grads | dict.fromkeys(values, "constexpr"), values, {"num_warps": 8}
