"""Whole guided chains of the session denoiser on a GPU: a program owns BLOCK_B rows from h_long to x_0.

Registers hold the state x, one branch's way through the sessions, the output's sums and the combination so far, each
``[BLOCK_B, BLOCK_D]``, and one tile of hidden units at a time; the weights, 128 KB for D = 64 and 256 units, come from L2 at every
pass. HBM sees h_long, x_0, and the workspace, made by matrix products before the loop: ``[S, hidden]`` for the timesteps and the
projected guidance of up to 8192 rows at a time, ``[branches, rows, K, hidden]``. A pass that none of a program's rows has is skipped.

Matrix products are ``tf32x3``, as in ``denoise_chain``. fp64, which has no such product, and D above 64, which would spill, are
refused; where no backend is forced, the op takes the folded loop of the reference in torch for them. Not yet measured on a GPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ..reference.rng import largest_draw
from .denoise_chain import GIVEN, MADE, _normals

ROWS = 8192  # whose guidance is projected at once
WIDEST = 64  # D
BLOCK_B, BLOCK_H = 16, 16  # with eight warps: more would spill


@triton.jit(do_not_specialize=["seed", "largest"])
def fusion_kernel(
    x, shift, mask, times, w_in, w_out, b_out, numbers, noise, row_ids, draw_ids, x_0,
    B, all_rows, D, H, S, K, branches, w_row, c_un, c_1, c_2, seed, largest,
    SOURCE: tl.constexpr, HAS_DRAWS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """x [B, D], shift [H] | [branches - 1, B, K, H], mask [B, K], times [S, H], w_in [H, w_row], w_out [D, H], noise [S, all_rows, D]."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d, h = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_H)
    bm, dm = b < B, d < D
    both = bm[:, None] & dm[None, :]
    at = b[:, None] * D + d[None, :]
    xk = tl.load(x + at, mask=both, other=0.0)  # [BLOCK_B, BLOCK_D]
    bias = tl.load(b_out + d, mask=dm, other=0.0)
    row = b
    draw = b * 0
    if SOURCE >= MADE:
        row = tl.load(row_ids + b, mask=bm, other=0)
        if HAS_DRAWS:
            draw = tl.load(draw_ids + b, mask=bm, other=0)
    sessions = tl.zeros([BLOCK_B], tl.int32)
    for k in range(K):
        sessions += tl.load(mask + b * K + k, mask=bm, other=0).to(tl.int32)
    for s in range(S):
        f = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
        for c in range(branches):
            y = xk
            first = tl.where(c == 0, 0, H + (tl.cast(c, tl.int64) - 1) * B * K * H)
            apart = tl.where(c == 0, 0, H)  # of two sessions; the empty guidance is one vector
            for k in range(K):
                there = tl.load(mask + b * K + k, mask=bm, other=0).to(tl.int32)
                if tl.max(there, 0) > 0:
                    out = tl.zeros([BLOCK_B, BLOCK_D], tl.float32) + bias[None, :]
                    for j in range(0, H, BLOCK_H):
                        unit = j + h
                        hm = unit < H
                        wx = tl.load(w_in + unit[None, :] * w_row + d[:, None], mask=dm[:, None] & hm[None, :], other=0.0)
                        a = tl.load(shift + first + (b * K + k)[:, None] * apart + unit[None, :], mask=bm[:, None] & hm[None, :], other=0.0)
                        a += tl.load(times + tl.cast(s, tl.int64) * H + unit, mask=hm, other=0.0)[None, :]
                        a = tl.dot(y, wx, a, input_precision="tf32x3")  # [BLOCK_B, BLOCK_H]
                        a = a / (1.0 + tl.exp(-a))
                        wo = tl.load(w_out + d[None, :] * H + unit[:, None], mask=dm[None, :] & hm[:, None], other=0.0)
                        out = tl.dot(a, wo, out, input_precision="tf32x3")
                    y = tl.where(there[:, None] > 0, out, y)
            f += tl.where(c == 0, c_un, tl.where(c == 1, c_1, c_2)) * y
        n = numbers + 4 * s
        d0, d1, sigma = tl.load(n).to(tl.float32), tl.load(n + 1).to(tl.float32), tl.load(n + 2).to(tl.float32)
        step = tl.load(n + 3).to(tl.int64)
        xk = d0 * f + d1 * xk
        if SOURCE == GIVEN:  # noqa: SIM102  decided at compile time
            if sigma != 0.0:
                xk += sigma * tl.load(noise + tl.cast(s, tl.int64) * all_rows * D + at, mask=both, other=0.0)
        if SOURCE >= MADE:  # noqa: SIM102
            if sigma != 0.0:
                xk += sigma * _normals(row, draw, step, seed, largest, D, SOURCE, BLOCK_D)
    xk = tl.where(sessions[:, None] > 0, xk, tl.load(x + at, mask=both, other=0.0))
    tl.store(x_0 + at, xk, mask=both)


def reasons_against(h_long: Tensor, *_: Any) -> list[str]:
    """Why the kernel cannot run a chain of h_long [B, D]; empty if it can."""
    reasons = []
    if h_long.dtype == torch.float64:
        reasons.append("expected float32, float16 or bfloat16, got float64, which has no tensor-core product")
    if h_long.shape[1] > WIDEST:
        reasons.append(f"expected D of at most {WIDEST}, got {h_long.shape[1]}: a wider state would not fit the registers")
    return reasons


def fusion_chain(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor,
    empty: Tensor, embedding: Tensor, numbers: Tensor, noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None,
    gamma_cp: float, gamma_tf: float, seed: int,
) -> Tensor:  # fmt: skip
    (B, D), (K, S, H) = h_long.shape, (mask.shape[1], embedding.shape[0], w_out.shape[1])
    x, x_0, mask = h_long.contiguous(), h_long.new_empty(B, D), mask.contiguous().view(torch.uint8)
    w_in, w_out, b_out, numbers = w_in.contiguous(), w_out.contiguous(), b_out.contiguous(), numbers.contiguous()
    noise = noise.contiguous() if noise is not None else None
    row_ids, draw_ids = (t.contiguous() if t is not None else None for t in (row_ids, draw_ids))
    times = F.linear(embedding, w_in[:, D:], b_in)  # [S, H]
    unguided = F.linear(empty, w_cond)  # [H]
    guided = [(g, gamma) for g, gamma in ((g_cp, gamma_cp), (g_tf, gamma_tf)) if gamma]
    gammas = [gamma for _, gamma in guided] + [0.0] * (2 - len(guided))
    source = 1 if noise is not None else 0 if row_ids is None else 2 if D % 4 == 0 else 3
    block_d = max(16, triton.next_power_of_2(D))
    for i in range(0, B, ROWS):
        n = min(ROWS, B - i)
        shift = torch.cat([unguided, *(F.linear(g[i : i + n], w_cond).flatten() for g, _ in guided)])
        ids, draws = (None if t is None else t[i : i + n] for t in (row_ids, draw_ids))
        with torch.cuda.device_of(x):
            fusion_kernel[(triton.cdiv(n, BLOCK_B),)](
                x[i : i + n], shift, mask[i : i + n], times, w_in, w_out, b_out, numbers,
                None if noise is None else noise[:, i : i + n], ids, draws, x_0[i : i + n],
                n, B, D, H, S, K, 1 + len(guided), w_in.stride(0), 1 - gamma_cp - gamma_tf, *gammas, seed, largest_draw(D),
                source, draws is not None, BLOCK_B, block_d, BLOCK_H, num_warps=8, num_stages=1,
            )  # fmt: skip
    return x_0


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    f, ids = "*fp32", "*i64"
    tensors = dict.fromkeys(("x", "shift", "times", "w_in", "w_out", "b_out", "noise", "x_0"), f)
    tensors |= {"mask": "*u8", "numbers": "*fp64", "row_ids": ids, "draw_ids": ids}
    sizes = dict.fromkeys(("B", "all_rows", "D", "H", "S", "K", "branches", "w_row"), "i32")
    sizes |= dict.fromkeys(("c_un", "c_1", "c_2"), "fp32") | {"seed": "i64", "largest": "i64"}
    fixed = dict.fromkeys(("SOURCE", "HAS_DRAWS", "BLOCK_B", "BLOCK_D", "BLOCK_H"), "constexpr")
    for D, source in ((64, 0), (64, 1), (64, 2), (33, 3), (16, 2)):
        block_d = max(16, triton.next_power_of_2(D))
        values = {"SOURCE": source, "HAS_DRAWS": source >= 2, "BLOCK_B": BLOCK_B, "BLOCK_D": block_d, "BLOCK_H": BLOCK_H}
        absent = {name: None for name, here in (("noise", source == 1), ("row_ids", source >= 2), ("draw_ids", source >= 2)) if not here}
        yield fusion_kernel, tensors | sizes | fixed, values | absent, {"num_warps": 8, "num_stages": 1}
