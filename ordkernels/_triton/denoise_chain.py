"""Fused reverse chains of the MLP denoiser on a GPU: a program owns BLOCK_B rows from x_T to x_0.

Registers hold the state x ``[BLOCK_B, BLOCK_D]``, the output's sums, and one tile of hidden units at a time; the weights, 128 KB for
D = 64 and 256 units, come from L2 at every step, and so does the projected condition of the rows in flight. HBM sees x_T, the
aligned estimates, x_0, and the workspace: ``[S, hidden]`` for the timesteps and ``[B, hidden]`` for the conditions, computed by two
matrix products before the loop.

Matrix products are ``tf32x3``: three tensor-core products of the operands' upper and lower halves, about as exact as fp32 (one of
plain TF32 would leave 1e-3, and fp32 outside the tensor cores is several times slower). fp64, which has no such product, and D
above 128, which would spill, are rejected (`unavailable_reasons`); where no backend is forced, the reference's loop in torch serves them.

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
from ._chain import add_noise, mlp_denoiser, noise_streams
from ._launch import launch
from ._noise import noise_source
from ._sizes import cdiv, next_power_of_2

MAX_WIDTH = 128  # D


@triton.jit(do_not_specialize=["B", "S", "K", "seed", "largest_draw"])
def chain_kernel(
    x, shift, times, w_in, w_out, b_out, step_coefficients, noise, row_ids, draw_ids, x_0, states,
    B, D, H, S, K, w_row, clip, seed, largest_draw,
    SOURCE: tl.constexpr, HAS_DRAWS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """x [B, D], shift [B, H], times [S, H], w_in [H, w_row], w_out [D, H], step_coefficients [S, 8]."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    row_mask, d_mask = b < B, d < D
    mask = row_mask[:, None] & d_mask[None, :]
    offsets = b[:, None] * D + d[None, :]
    xk = tl.load(x + offsets, mask=mask, other=0.0)  # [BLOCK_B, BLOCK_D]
    bias = tl.load(b_out + d, mask=d_mask, other=0.0)
    row, draw = noise_streams(row_ids, draw_ids, b, row_mask, SOURCE, HAS_DRAWS)
    for s in range(S):
        s64 = tl.cast(s, tl.int64)
        out = mlp_denoiser(xk, shift + b * H, times + s64 * H, w_in, w_out, bias, d, row_mask, d_mask, H, w_row, BLOCK_H)
        n = step_coefficients + 8 * s
        c0, c1 = tl.load(n).to(tl.float32), tl.load(n + 1).to(tl.float32)
        d0, d1, d2 = tl.load(n + 2).to(tl.float32), tl.load(n + 3).to(tl.float32), tl.load(n + 4).to(tl.float32)
        sigma, step, aligned = tl.load(n + 5).to(tl.float32), tl.load(n + 6).to(tl.int64), tl.load(n + 7).to(tl.int64)
        only_output = (c0 == 0.0) & (c1 == 1.0)  # 0 x would make NaN of an infinite x
        x0 = tl.where(only_output, out, c0 * xk + c1 * out)
        x0 = tl.where(x0 < -clip, -clip, x0)  # NaN stays
        x0 = tl.where(x0 > clip, clip, x0)
        if aligned >= 0:
            tl.store(states + (b[:, None] * K + aligned) * D + d[None, :], x0, mask=mask)
        xk = d0 * x0 + d1 * xk + d2 * out
        xk = add_noise(xk, sigma, noise, s64 * B * D + offsets, mask, row, draw, step, seed, largest_draw, D, SOURCE, BLOCK_D)
    tl.store(x_0 + offsets, xk, mask=mask)


def unavailable_reasons(x: Tensor, *_: Any) -> list[str]:
    """Why the kernel cannot run a chain of x [B, D]; empty if it can."""
    reasons = []
    if x.dtype == torch.float64:
        reasons.append("expected float32, float16 or bfloat16, got float64, which has no tensor-core product")
    if x.shape[1] > MAX_WIDTH:
        reasons.append(f"expected D of at most {MAX_WIDTH}, got {x.shape[1]}: a wider state would not fit the registers")
    return reasons


def denoise_chain(
    x: Tensor, cond: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor, embedding: Tensor,
    step_coefficients: Tensor, noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None, K: int, clip: float, seed: int,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    B, D = x.shape
    S, H = embedding.shape[0], w_out.shape[1]
    x_0, states = x.new_empty(B, D), x.new_empty(B, K, D)
    if B == 0:
        return x_0, states
    x, w_in, w_out, step_coefficients = x.contiguous(), w_in.contiguous(), w_out.contiguous(), step_coefficients.contiguous()
    times = F.linear(embedding, w_in[:, D:], b_in)  # [S, H]
    shift = F.linear(cond, w_cond)  # [B, H]
    noise = noise.contiguous() if noise is not None else None
    row_ids, draw_ids = (t.contiguous() if t is not None else None for t in (row_ids, draw_ids))
    source = noise_source(noise, row_ids, D)
    block_b, block_d, block_h, warps, stages = _blocks(B, D, source)
    launch(
        chain_kernel, (cdiv(B, block_b),),
        x, shift, times, w_in, w_out, b_out.contiguous(), step_coefficients, noise, row_ids, draw_ids, x_0, states,
        B, D, H, S, K, w_in.stride(0), clip, seed, largest_draw(D),
        source, draw_ids is not None, block_b, block_d, block_h, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return x_0, states


def _blocks(B: int, D: int, source: int) -> tuple[int, int, int, int, int]:
    """BLOCK_B, BLOCK_D, BLOCK_H, warps, stages: as many rows as registers hold, fewer where multiprocessors would be idle."""
    block_d = max(16, next_power_of_2(D))
    if block_d > 64:
        return 16, block_d, 32, 8, 1
    if B <= 4096 or source == 3:
        return 16, block_d, 32, 8 if source == 3 else 4, 1
    return 32, block_d, 16, 8 if source == 2 else 4, 1  # generating noise takes registers: 4 warps would spill


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, ids = "*fp32", "*i64"
    tensors = dict.fromkeys(("x", "shift", "times", "w_in", "w_out", "b_out", "noise", "x_0", "states"), f)
    tensors |= {"step_coefficients": "*fp64", "row_ids": ids, "draw_ids": ids}
    sizes = dict.fromkeys(("B", "D", "H", "S", "K", "w_row"), "i32") | {"clip": "fp32", "seed": "i64", "largest_draw": "i64"}
    fixed = dict.fromkeys(("SOURCE", "HAS_DRAWS", "BLOCK_B", "BLOCK_D", "BLOCK_H"), "constexpr")
    for B, D, source in ((1, 64, 0), (1, 64, 2), (8192, 64, 1), (65536, 64, 0), (65536, 64, 2), (65536, 33, 3), (65536, 128, 2)):
        block_b, block_d, block_h, warps, stages = _blocks(B, D, source)
        values = {"SOURCE": source, "HAS_DRAWS": source >= 2, "BLOCK_B": block_b, "BLOCK_D": block_d, "BLOCK_H": block_h}
        absent = {name: None for name, here in (("noise", source == 1), ("row_ids", source >= 2), ("draw_ids", source >= 2)) if not here}
        yield chain_kernel, tensors | sizes | fixed, values | absent, {"num_warps": warps, "num_stages": stages}
