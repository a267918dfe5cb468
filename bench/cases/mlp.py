"""Networks of one hidden layer, forward and backward, against torch, eager and compiled. No dropout: each draws its own."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, with_backward, without_grad

DENOISERS: dict[Size, tuple[tuple[int, int, int, int], ...]] = {
    "tiny": ((6, 3, 4, 8),),
    "quick": ((1024, 8, 64, 256),),
    "full": ((1024, 1, 64, 256), (1024, 8, 64, 256), (32768, 8, 64, 256)),
}  # rows, copies of each, D, H
HEADS: dict[Size, tuple[int, int, int, int]] = {"tiny": (5, 2, 3, 4), "quick": (2048, 8, 64, 64), "full": (2048, 8, 64, 64)}  # B, G, D, H
TARGETS = [Target("as fast as the best baseline", "best baseline", 1.0), Target("peak extra memory at most half of eager's", "memory", 0.5)]


def cases(device: str, size: Size) -> Iterator[Case]:
    for shape in DENOISERS[size]:
        yield _denoiser(*shape, device=device)
    yield _heads(*HEADS[size], device=device)


def eager(x: Tensor, cond: Tensor, w_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
    """x [B, copies, D], cond [B, H]."""
    return F.linear(F.silu(F.linear(x, w_in) + cond[:, None]), w_out, b_out)


def eager_heads(x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
    """x [B, G, D] -> [B, G, 1]."""
    h = F.silu(torch.baddbmm(b_in[:, None], x.transpose(0, 1), w_in.transpose(1, 2)))
    return ((h * w_out).sum(-1, keepdim=True) + b_out[:, None]).transpose(0, 1)


def _case(name: str, ours: Any, theirs: Any, args: list[Tensor], g: Tensor, *, flops: float, device: str) -> Case:
    runs: dict[str, Run] = {
        OURS: with_backward(ours, args, [g]),
        "eager": with_backward(theirs, args, [g]),
        "compile": with_backward(compiled(theirs), args, [g]),
    }

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            return with_backward(ours, [t.double() for t in args], [g.double()])()

    needed = 4 * (2 * sum(t.numel() for t in args) + 2 * g.numel())
    return Case("mlp", name, runs, expected, 1e-3, bytes=needed, flops=flops, device=device, targets=TARGETS)


def _denoiser(B: int, copies: int, D: int, H: int, device: str) -> Case:
    index = torch.arange(B, device=device).repeat_interleave(copies)
    args = [
        randn(B, copies, D, device=device, seed=1),
        randn(B, H, device=device, seed=2),
        randn(H, D, device=device, seed=3, scale=D**-0.5),
        randn(D, H, device=device, seed=4, scale=H**-0.5),
        randn(D, device=device, seed=5),
    ]

    def ours(x: Tensor, cond: Tensor, w_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        return ops.mlp(x.flatten(0, 1), w_in, None, w_out, b_out, cond=cond, cond_index=index).view(x.shape)

    name, g = f"forward + backward R={B * copies} D={D} H={H}", randn(B, copies, D, device=device, seed=6)
    return _case(name, ours, eager, args, g, flops=12.0 * B * copies * H * D, device=device)


def _heads(B: int, G: int, D: int, H: int, device: str) -> Case:
    args = [
        randn(B, G, D, device=device, seed=1),
        randn(G, H, D, device=device, seed=3, scale=D**-0.5),
        randn(G, H, device=device, seed=2),
        randn(G, 1, H, device=device, seed=4, scale=H**-0.5),
        randn(G, 1, device=device, seed=5),
    ]
    name, g = f"forward + backward, {G} networks of one output, R={B} D={D} H={H}", randn(B, G, 1, device=device, seed=6)
    return _case(name, ops.mlp, eager_heads, args, g, flops=6.0 * B * G * H * (D + 1), device=device)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    rows = tuple(10**e for e in range(1, {"tiny": 2, "quick": 4, "full": 6}[size] + 1))

    def run(B: int) -> Run:
        w_in, w_out = randn(256, 64, device=device, seed=2, scale=1 / 8), randn(64, 256, device=device, seed=3, scale=1 / 16)
        return without_grad(lambda x: ops.mlp(x, w_in, None, w_out, None), [randn(B, 64, device=device, seed=1)])

    yield Scaling("mlp", "forward, D=64 H=256 O=64", "B", rows, run, float)
