"""planar_flow in CUDA C++: rows of [B, D] with parameters of their own."""

from typing import Any

import torch
from torch import Tensor

MAX_WIDTH = 512  # D: what a warp holds in registers
MAX_STATES = 160 << 10  # bytes of shared memory for the states of a row's layers, in the backward: an A100 has 163 KB


def unavailable_reasons(z: Tensor, u: Tensor, *_: Any) -> list[str]:
    reasons = []
    if z.dim() != 2 or u.dim() != 3:
        reasons.append("expected parameters per row, z [B, D] and u [B, K, D]: where rows share parameters tiles of Triton's reuse them")
    if z.shape[-1] > MAX_WIDTH:
        reasons.append(f"expected D up to {MAX_WIDTH}, got {z.shape[-1]}")
    return reasons


def backward_unavailable_reasons(z: Tensor, act: Tensor, u: Tensor, *_: Any) -> list[str]:
    reasons = unavailable_reasons(z, u)
    if not reasons and u.shape[1] * (z.shape[1] + 8) * act.element_size() > MAX_STATES:
        reasons.append(f"expected the states of K = {u.shape[1]} layers to fit into {MAX_STATES} bytes")
    return reasons


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.ordkernels_cuda.planar_flow(z, u, w, b, mode)
    return out


def planar_flow_backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.ordkernels_cuda.planar_flow_backward(z, act, u, w, gz, gl, mode)
    return out
