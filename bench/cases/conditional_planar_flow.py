"""The planar flow with its hypernetwork fused in, against torch, eager and compiled."""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, with_backward, without_grad
from ._planar_flow import at_least, eager, flops

H = 64
SHAPES: dict[Size, tuple[tuple[int, int, int], ...]] = {"tiny": ((5, 2, 3),), "quick": (), "full": ((65536, 4, 64),)}  # B, K, D


def eager_conditional(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = z.shape[-1]
    u, w, b = F.linear(h, weight, bias).unflatten(1, (-1, 2 * D + 1)).split([D, D, 1], -1)
    return eager(z, u, w, b[..., 0])


def unfused(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = z.shape[-1]
    u, w, b = F.linear(h, weight, bias).unflatten(1, (-1, 2 * D + 1)).split([D, D, 1], -1)
    return ops.planar_flow(z, u, w, b[..., 0])


def conditional_inputs(B: int, K: int, D: int, device: str) -> list[Tensor]:
    rows = K * (2 * D + 1)
    return [
        randn(B, D, device=device, seed=1),
        randn(B, H, device=device, seed=2),
        randn(rows, H, device=device, seed=3, scale=(H * D) ** -0.5),
        randn(rows, device=device, seed=4, scale=D**-0.5),
    ]


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, K, D in SHAPES[size]:
        yield _conditional(B, K, D, device)


def _conditional(B: int, K: int, D: int, device: str) -> Case:
    args, grads = conditional_inputs(B, K, D, device), [randn(B, D, device=device, seed=5), randn(B, device=device, seed=6)]
    runs: dict[str, Run] = {
        OURS: with_backward(ops.conditional_planar_flow, args, grads),
        "eager": with_backward(eager_conditional, args, grads),
        "compile": with_backward(compiled(eager_conditional), args, grads),
        "linear + our planar_flow": with_backward(unfused, args, grads),
    }

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            return with_backward(ops.conditional_planar_flow, [t.double() for t in args], [g.double() for g in grads])()

    rows = K * (2 * D + 1)
    return Case(
        "conditional_planar_flow", f"forward + backward B={B} K={K} D={D} H={H}", runs, expected, 1e-3,
        bytes=4 * (B * (4 * D + 3 * H + 3) + 3 * rows * (H + 1)), flops=6.0 * B * H * rows + 4 * flops(B, K, D),
        context=("linear + our planar_flow",), device=device,
        targets=[at_least(1.5), Target("peak extra memory at most 1/8 of eager's", "memory", 1 / 8)],
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 4, "full": 6}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(ops.conditional_planar_flow, conditional_inputs(B, 4, 16, device))

    yield Scaling("conditional_planar_flow", f"forward, K=4 D=16 H={H}", "B", rows, run, float)
