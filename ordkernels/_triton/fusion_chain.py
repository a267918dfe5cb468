"""Fused guided chains of the session denoiser on a GPU: a program owns BLOCK_B rows from h_long to x_0.

Registers hold the state x, one branch's state after each session, the output's sums and the combination so far, each
``[BLOCK_B, BLOCK_D]``, and one tile of hidden units at a time; the weights, 128 KB for D = 64 and 256 units, come from L2 at every
pass. HBM sees h_long, x_0, and the workspace, computed by matrix products before the loop: ``[S, hidden]`` for the timesteps and the
projected guidance of up to 8192 rows at a time, ``[branches, rows, K, hidden]``. A session that none of a program's rows has is skipped.

Matrix products are ``tf32x3``, as in ``denoise_chain``. fp64, which has no such product, and D above 64, which would spill, are
rejected (`unavailable_reasons`); where no backend is forced, the reference's loop in torch serves them. Not yet measured on a GPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ..reference.fusion_chain import guided_branches
from ..reference.rng import largest_draw
from ._chain import add_noise, mlp_denoiser, noise_streams
from ._launch import launch
from ._noise import noise_source
from ._sizes import cdiv, next_power_of_2

ROWS = 8192  # projected guidance is materialized for so many rows at a time
MAX_WIDTH = 64  # D
BLOCK_B, BLOCK_H = 16, 16  # with eight warps: more would spill


@triton.jit(do_not_specialize=["B", "all_rows", "S", "K", "branches", "seed", "largest_draw"])
def fusion_kernel(
    x, shift, mask, times, w_in, w_out, b_out, step_coefficients, noise, row_ids, draw_ids, x_0,
    B, all_rows, D, H, S, K, branches, w_row, c_un, c_1, c_2, seed, largest_draw,
    SOURCE: tl.constexpr, HAS_DRAWS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """x [B, D], shift [H] | [branches - 1, B, K, H], mask [B, K], times [S, H], w_in [H, w_row], w_out [D, H], noise [S, all_rows, D]."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    row_mask, d_mask = b < B, d < D
    both = row_mask[:, None] & d_mask[None, :]
    offsets = b[:, None] * D + d[None, :]
    xk = tl.load(x + offsets, mask=both, other=0.0)  # [BLOCK_B, BLOCK_D]
    bias = tl.load(b_out + d, mask=d_mask, other=0.0)
    row, draw = noise_streams(row_ids, draw_ids, b, row_mask, SOURCE, HAS_DRAWS)
    sessions = tl.zeros([BLOCK_B], tl.int32)
    for k in range(K):
        sessions += tl.load(mask + b * K + k, mask=row_mask, other=0).to(tl.int32)
    for s in range(S):
        s64 = tl.cast(s, tl.int64)
        f = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
        for c in range(tl.where(c_un == 0, 1, 0), branches):  # none without guidance where it has no weight
            y = xk
            first = tl.where(c == 0, 0, H + (tl.cast(c, tl.int64) - 1) * B * K * H)
            stride = tl.where(c == 0, 0, H)  # from session to session; the empty guidance is one vector
            for k in range(K):
                present = tl.load(mask + b * K + k, mask=row_mask, other=0).to(tl.int32)
                if tl.max(present, 0) > 0:
                    guidance = shift + first + (b * K + k) * stride
                    out = mlp_denoiser(y, guidance, times + s64 * H, w_in, w_out, bias, d, row_mask, d_mask, H, w_row, BLOCK_H)
                    y = tl.where(present[:, None] > 0, out, y)
            f += tl.where(c == 0, c_un, tl.where(c == 1, c_1, c_2)) * y
        n = step_coefficients + 4 * s
        d0, d1, sigma = tl.load(n).to(tl.float32), tl.load(n + 1).to(tl.float32), tl.load(n + 2).to(tl.float32)
        step = tl.load(n + 3).to(tl.int64)
        xk = d0 * f + d1 * xk
        xk = add_noise(xk, sigma, noise, s64 * all_rows * D + offsets, both, row, draw, step, seed, largest_draw, D, SOURCE, BLOCK_D)
    xk = tl.where(sessions[:, None] > 0, xk, tl.load(x + offsets, mask=both, other=0.0))
    tl.store(x_0 + offsets, xk, mask=both)


def unavailable_reasons(h_long: Tensor, *_: Any) -> list[str]:
    """Why the kernel cannot run a chain of h_long [B, D]; empty if it can."""
    reasons = []
    if h_long.dtype == torch.float64:
        reasons.append("expected float32, float16 or bfloat16, got float64, which has no tensor-core product")
    if h_long.shape[1] > MAX_WIDTH:
        reasons.append(f"expected D of at most {MAX_WIDTH}, got {h_long.shape[1]}: a wider state would not fit the registers")
    return reasons


def fusion_chain(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor,
    empty: Tensor, embedding: Tensor, step_coefficients: Tensor, noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None,
    gamma_cp: float, gamma_tf: float, seed: int,
) -> Tensor:  # fmt: skip
    (B, D), (K, S, H) = h_long.shape, (mask.shape[1], embedding.shape[0], w_out.shape[1])
    x, x_0, mask = h_long.contiguous(), h_long.new_empty(B, D), mask.contiguous().view(torch.uint8)
    w_in, w_out, b_out, step_coefficients = w_in.contiguous(), w_out.contiguous(), b_out.contiguous(), step_coefficients.contiguous()
    noise = noise.contiguous() if noise is not None else None
    row_ids, draw_ids = (t.contiguous() if t is not None else None for t in (row_ids, draw_ids))
    times = F.linear(embedding, w_in[:, D:], b_in)  # [S, H]
    unguided = F.linear(empty, w_cond)  # [H]
    guided, c_un = guided_branches(g_cp, g_tf, gamma_cp, gamma_tf)
    gammas = [gamma for _, gamma in guided] + [0.0] * (2 - len(guided))
    source = noise_source(noise, row_ids, D)
    block_d = max(16, next_power_of_2(D))
    for i in range(0, B, ROWS):
        n = min(ROWS, B - i)
        shift = torch.cat([unguided, *(F.linear(g[i : i + n], w_cond).flatten() for g, _ in guided)])
        ids, draws = (None if t is None else t[i : i + n] for t in (row_ids, draw_ids))
        launch(
            fusion_kernel, (cdiv(n, BLOCK_B),),
            x[i : i + n], shift, mask[i : i + n], times, w_in, w_out, b_out, step_coefficients,
            None if noise is None else noise[:, i : i + n], ids, draws, x_0[i : i + n],
            n, B, D, H, S, K, 1 + len(guided), w_in.stride(0), c_un, *gammas, seed, largest_draw(D),
            source, draws is not None, BLOCK_B, block_d, BLOCK_H, num_warps=8, num_stages=1,
        )  # fmt: skip
    return x_0


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, ids = "*fp32", "*i64"
    tensors = dict.fromkeys(("x", "shift", "times", "w_in", "w_out", "b_out", "noise", "x_0"), f)
    tensors |= {"mask": "*u8", "step_coefficients": "*fp64", "row_ids": ids, "draw_ids": ids}
    sizes = dict.fromkeys(("B", "all_rows", "D", "H", "S", "K", "branches", "w_row"), "i32")
    sizes |= dict.fromkeys(("c_un", "c_1", "c_2"), "fp32") | {"seed": "i64", "largest_draw": "i64"}
    fixed = dict.fromkeys(("SOURCE", "HAS_DRAWS", "BLOCK_B", "BLOCK_D", "BLOCK_H"), "constexpr")
    for D, source in ((64, 0), (64, 1), (64, 2), (33, 3), (16, 2)):
        block_d = max(16, next_power_of_2(D))
        values = {"SOURCE": source, "HAS_DRAWS": source >= 2, "BLOCK_B": BLOCK_B, "BLOCK_D": block_d, "BLOCK_H": BLOCK_H}
        absent = {name: None for name, here in (("noise", source == 1), ("row_ids", source >= 2), ("draw_ids", source >= 2)) if not here}
        yield fusion_kernel, tensors | sizes | fixed, values | absent, {"num_warps": 8, "num_stages": 1}
