"""denoise_chain in CUDA C++: the whole chain in one persistent kernel, weights in shared memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ._chain import aligned, pack, width_reasons


def unavailable_reasons(x: Tensor, cond: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, *_: object) -> list[str]:
    return width_reasons(x, w_out, 0)


def denoise_chain(
    x: Tensor, cond: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor, embedding: Tensor,
    step_coefficients: Tensor, noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None, K: int, clip: float, seed: int,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    w = pack(w_in, b_in, w_cond, w_out, b_out, embedding, bf16)
    noise = None if noise is None else aligned(noise)
    out: tuple[Tensor, Tensor] = torch.ops.ordkernels_cuda.denoise_chain(
        aligned(x), F.linear(cond, w.w_cond), w.times, w.w_in, w.w_out, w.b_out, step_coefficients, noise, row_ids, draw_ids, K, clip,
        seed, w.path,
    )  # fmt: skip
    return out
