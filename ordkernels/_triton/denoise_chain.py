"""Whole reverse chains of the MLP denoiser on a GPU: a program owns BLOCK_B rows from x_T to x_0.

Registers hold the state x ``[BLOCK_B, BLOCK_D]``, the output's sums, and one tile of hidden units at a time; the weights, 128 KB for
D = 64 and 256 units, come from L2 at every step, and so does the projected condition of the rows in flight. HBM sees x_T, the
aligned estimates, x_0, and the workspace: ``[S, hidden]`` for the timesteps and ``[B, hidden]`` for the conditions, made by two
matrix products before the loop.

Matrix products are ``tf32x3``: three tensor-core products of the operands' upper and lower halves, about as exact as fp32 (one of
plain TF32 would leave 1e-3, and fp32 outside the tensor cores is several times slower). fp64, which has no such product, and D
above 128, which would spill, are refused; where no backend is forced, the op takes the folded loop of the reference in torch for them.

One H200, B = 65536, 50 steps: 0.21 Tflop, three times that in TF32, so 1.6 ms at 400 Tflop/s; predicted 4 ms. B = 1: 50 times 128 KB
from L2 to one multiprocessor, predicted 0.15 ms. Not yet measured.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ..reference.rng import largest_draw
from .rng import normal4

NONE = tl.constexpr(0)
GIVEN = tl.constexpr(1)
MADE = tl.constexpr(2)  # D is a multiple of four: a row's noise is whole blocks
MADE_ANYWHERE = tl.constexpr(3)  # a block for every number

WIDEST = 128  # D


@triton.jit
def _normals(row, draw, step, seed, largest, D, SOURCE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Numbers draw D, ..., draw D + D - 1 of the rows' streams, [BLOCK_B, BLOCK_D]."""
    dead = (draw < 0) | (draw > largest)
    first = tl.where(dead, 0, draw) * D
    if SOURCE == MADE:
        block = (first // 4)[:, None] + tl.arange(0, BLOCK_D // 4)[None, :]
        n0, n1, n2, n3 = normal4(row[:, None] + block * 0, step, block, seed)
        value = tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))
    else:
        index = first[:, None] + tl.arange(0, BLOCK_D)[None, :]
        n0, n1, n2, n3 = normal4(row[:, None] + index * 0, step, index // 4, seed)
        word = index % 4
        value = tl.where(word < 2, tl.where(word == 0, n0, n1), tl.where(word == 2, n2, n3))
    return tl.where(dead[:, None], float("nan"), value)


@triton.jit(do_not_specialize=["seed", "largest"])
def chain_kernel(
    x, shift, times, w_in, w_out, b_out, numbers, noise, row_ids, draw_ids, x_0, states,
    B, D, H, S, K, w_row, clip, seed, largest,
    SOURCE: tl.constexpr, HAS_DRAWS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """x [B, D], shift [B, H], times [S, H], w_in [H, w_row], w_out [D, H], numbers [S, 8]."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d, h = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_H)
    bm, dm = b < B, d < D
    mask = bm[:, None] & dm[None, :]
    at = b[:, None] * D + d[None, :]
    xk = tl.load(x + at, mask=mask, other=0.0)  # [BLOCK_B, BLOCK_D]
    bias = tl.load(b_out + d, mask=dm, other=0.0)
    row = b
    draw = b * 0
    if SOURCE >= MADE:
        row = tl.load(row_ids + b, mask=bm, other=0)
        if HAS_DRAWS:
            draw = tl.load(draw_ids + b, mask=bm, other=0)
    for s in range(S):
        out = tl.zeros([BLOCK_B, BLOCK_D], tl.float32) + bias[None, :]
        for j in range(0, H, BLOCK_H):
            unit = j + h
            hm = unit < H
            wx = tl.load(w_in + unit[None, :] * w_row + d[:, None], mask=dm[:, None] & hm[None, :], other=0.0)  # [BLOCK_D, BLOCK_H]
            a = tl.load(shift + b[:, None] * H + unit[None, :], mask=bm[:, None] & hm[None, :], other=0.0)
            a += tl.load(times + tl.cast(s, tl.int64) * H + unit, mask=hm, other=0.0)[None, :]
            a = tl.dot(xk, wx, a, input_precision="tf32x3")
            a = a / (1.0 + tl.exp(-a))
            wo = tl.load(w_out + d[None, :] * H + unit[:, None], mask=dm[None, :] & hm[:, None], other=0.0)  # [BLOCK_H, BLOCK_D]
            out = tl.dot(a, wo, out, input_precision="tf32x3")
        n = numbers + 8 * s
        c0, c1 = tl.load(n).to(tl.float32), tl.load(n + 1).to(tl.float32)
        d0, d1, d2 = tl.load(n + 2).to(tl.float32), tl.load(n + 3).to(tl.float32), tl.load(n + 4).to(tl.float32)
        sigma, step, place = tl.load(n + 5).to(tl.float32), tl.load(n + 6).to(tl.int64), tl.load(n + 7).to(tl.int64)
        only_output = (c0 == 0.0) & (c1 == 1.0)  # 0 x would make NaN of an infinite x
        x0 = tl.where(only_output, out, c0 * xk + c1 * out)
        x0 = tl.where(x0 < -clip, -clip, x0)  # NaN goes through
        x0 = tl.where(x0 > clip, clip, x0)
        if place >= 0:
            tl.store(states + (b[:, None] * K + place) * D + d[None, :], x0, mask=mask)
        xk = d0 * x0 + d1 * xk + d2 * out
        if SOURCE == GIVEN:  # noqa: SIM102  decided at compile time
            if sigma != 0.0:
                xk += sigma * tl.load(noise + tl.cast(s, tl.int64) * B * D + at, mask=mask, other=0.0)
        if SOURCE >= MADE:  # noqa: SIM102
            if sigma != 0.0:
                xk += sigma * _normals(row, draw, step, seed, largest, D, SOURCE, BLOCK_D)
    tl.store(x_0 + at, xk, mask=mask)


def reasons_against(x: Tensor, *_: Any) -> list[str]:
    """Why the kernel cannot run a chain of x [B, D]; empty if it can."""
    reasons = []
    if x.dtype == torch.float64:
        reasons.append("expected float32, float16 or bfloat16, got float64, which has no tensor-core product")
    if x.shape[1] > WIDEST:
        reasons.append(f"expected D of at most {WIDEST}, got {x.shape[1]}: a wider state would not fit the registers")
    return reasons


def denoise_chain(
    x: Tensor, cond: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor, embedding: Tensor, numbers: Tensor,
    noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None, K: int, clip: float, seed: int, bf16: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    B, D = x.shape
    S, H = embedding.shape[0], w_out.shape[1]
    x_0, states = x.new_empty(B, D), x.new_empty(B, K, D)
    if B == 0:
        return x_0, states
    x, w_in, w_out, numbers = x.contiguous(), w_in.contiguous(), w_out.contiguous(), numbers.contiguous()
    times = F.linear(embedding, w_in[:, D:], b_in)  # [S, H]
    shift = F.linear(cond, w_cond)  # [B, H]
    noise = noise.contiguous() if noise is not None else None
    row_ids, draw_ids = (t.contiguous() if t is not None else None for t in (row_ids, draw_ids))
    source = 1 if noise is not None else 0 if row_ids is None else 2 if D % 4 == 0 else 3
    block_b, block_d, block_h, warps, stages = _blocks(B, D, source)
    with torch.cuda.device_of(x):
        chain_kernel[(triton.cdiv(B, block_b),)](
            x, shift, times, w_in, w_out, b_out.contiguous(), numbers, noise, row_ids, draw_ids, x_0, states,
            B, D, H, S, K, w_in.stride(0), clip, seed, largest_draw(D),
            source, draw_ids is not None, block_b, block_d, block_h, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return x_0, states


def _blocks(B: int, D: int, source: int) -> tuple[int, int, int, int, int]:
    """BLOCK_B, BLOCK_D, BLOCK_H, warps, stages: as many rows as registers hold, fewer where multiprocessors would stand idle."""
    block_d = max(16, triton.next_power_of_2(D))
    if block_d > 64:
        return 16, block_d, 32, 8, 1
    if B <= 4096 or source == 3:
        return 16, block_d, 32, 8 if source == 3 else 4, 1
    return 32, block_d, 16, 8 if source == 2 else 4, 1  # noise made inside takes registers: 4 warps would spill


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, ids = "*fp32", "*i64"
    tensors = dict.fromkeys(("x", "shift", "times", "w_in", "w_out", "b_out", "noise", "x_0", "states"), f)
    tensors |= {"numbers": "*fp64", "row_ids": ids, "draw_ids": ids}
    sizes = dict.fromkeys(("B", "D", "H", "S", "K", "w_row"), "i32") | {"clip": "fp32", "seed": "i64", "largest": "i64"}
    fixed = dict.fromkeys(("SOURCE", "HAS_DRAWS", "BLOCK_B", "BLOCK_D", "BLOCK_H"), "constexpr")
    for B, D, source in ((1, 64, 0), (1, 64, 2), (8192, 64, 1), (65536, 64, 0), (65536, 64, 2), (65536, 33, 3), (65536, 128, 2)):
        block_b, block_d, block_h, warps, stages = _blocks(B, D, source)
        values = {"SOURCE": source, "HAS_DRAWS": source >= 2, "BLOCK_B": block_b, "BLOCK_D": block_d, "BLOCK_H": block_h}
        absent = {name: None for name, here in (("noise", source == 1), ("row_ids", source >= 2), ("draw_ids", source >= 2)) if not here}
        yield chain_kernel, tensors | sizes | fixed, values | absent, {"num_warps": warps, "num_stages": stages}
