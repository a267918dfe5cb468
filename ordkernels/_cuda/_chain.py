"""What denoise_chain and fusion_chain share in CUDA C++: the denoiser's weights as the kernels take them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PLAIN, TF32X3, BF16 = range(3)
MAX_TENSOR_CORES = 128  # D; wider states, and fp64, are multiplied without them
MAX_SHARED = 160 << 10  # bytes: an A100 has 163 KB


class PackedWeights(NamedTuple):
    """Padded by zeros, which change no number: D to `width`, the hidden units to a multiple of 64. PLAIN: matrices transposed."""

    path: int
    times: Tensor  # [S, H]: what a timestep adds to the units
    w_in: Tensor
    w_cond: Tensor  # [H, C]
    w_out: Tensor
    b_out: Tensor


def pack(w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor, embedding: Tensor, bf16: bool = False) -> PackedWeights:
    D, H = w_out.shape
    tensor_cores = w_in.dtype == torch.float32 and D <= MAX_TENSOR_CORES
    width = (32 if D <= 32 else 64 if D <= 64 else 128) if tensor_cores else -(-D // 4) * 4
    hidden = -(-H // 64) * 64
    d, h = width - D, hidden - H
    times = F.linear(embedding, F.pad(w_in[:, D:], (0, 0, 0, h)), F.pad(b_in, (0, h)))
    first, second = F.pad(w_in[:, :D], (0, d, 0, h)), F.pad(w_out, (0, h, 0, d))
    if not tensor_cores:
        first, second = first.t(), second.t()
    elif bf16:
        first, second = first.bfloat16(), second.bfloat16()
    path = (BF16 if bf16 else TF32X3) if tensor_cores else PLAIN
    return PackedWeights(
        path, times, first.contiguous(), F.pad(w_cond, (0, 0, 0, h)), second.contiguous(), F.pad(b_out, (0, d)).contiguous()
    )


def aligned(t: Tensor) -> Tensor:
    """Contiguous, at a multiple of 16 bytes."""
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


def width_reasons(x: Tensor, w_out: Tensor, tiles: int) -> list[str]:
    """Why a row does not fit, with `tiles` more copies of it in shared memory."""
    D, H = w_out.shape
    if x.dtype == torch.float32 and D <= MAX_TENSOR_CORES:
        return []
    need = (-(-D // 4) * 4 * (2 + tiles) + -(-H // 64) * 64) * x.element_size() + 128
    if need <= MAX_SHARED:
        return []
    return [f"expected D = {D} and {H} hidden units of a row to fit into {MAX_SHARED} bytes of shared memory, they take {need}"]
