"""fusion_chain in CUDA C++: the whole guided chain in one persistent kernel, weights in shared memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..reference.fusion_chain import guided_branches
from ._chain import aligned, pack, width_reasons

ROWS = 8192  # projected guidance is materialized for so many rows at a time


def unavailable_reasons(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, *_: object
) -> list[str]:
    return width_reasons(h_long, w_out, 2)


def fusion_chain(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor,
    empty: Tensor, embedding: Tensor, step_coefficients: Tensor, noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None,
    gamma_cp: float, gamma_tf: float, seed: int,
) -> Tensor:  # fmt: skip
    w = pack(w_in, b_in, w_cond, w_out, b_out, embedding)
    x, unguided = aligned(h_long), F.linear(empty, w.w_cond)  # [H]
    noise = None if noise is None else noise.contiguous()
    guided, w_un = guided_branches(g_cp, g_tf, gamma_cp, gamma_tf)
    weights = [w_un, *(gamma for _, gamma in guided), 0.0, 0.0][:3]
    parts = []
    for i in range(0, len(x), ROWS):
        rows = slice(i, i + ROWS)
        shift = unguided.new_empty((len(guided), *mask[rows].shape, unguided.shape[0]))  # [branches - 1, rows, K, H]
        for c, (g, _) in enumerate(guided):
            torch.matmul(g[rows], w.w_cond.t(), out=shift[c])
        given, ids, draws = None if noise is None else noise[:, rows], *(None if t is None else t[rows] for t in (row_ids, draw_ids))
        part = torch.ops.ordkernels_cuda.fusion_chain(
            aligned(x[rows]), mask[rows], unguided, shift, w.times, w.w_in, w.w_out, w.b_out, step_coefficients, given, ids, draws,
            *weights, seed, w.path,
        )  # fmt: skip
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty_like(h_long)
