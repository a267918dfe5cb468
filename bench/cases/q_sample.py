"""Noising of training batches, K noised copies of every row, against eager torch and torch.compile."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, compiled, randn, without_grad

SHAPES: dict[tuple[str, Size], tuple[tuple[int, int], ...]] = {  # B K, D
    ("cpu", "tiny"): ((5, 3),),
    ("cpu", "quick"): ((1024, 64),),
    ("cpu", "full"): ((1024, 64), (65536, 64)),
    ("cuda", "tiny"): ((5, 3),),
    ("cuda", "quick"): ((65536, 64),),
    ("cuda", "full"): ((1024, 64), (1 << 20, 64)),
}
K = 8


def cases(device: str, size: Size) -> Iterator[Case]:
    for rows, D in SHAPES[device, size]:
        yield _noising(rows // K or 1, D, device)


def inputs(B: int, D: int, device: str) -> list[Tensor]:
    x0, noise = randn(B, D, device=device, seed=1), randn(B, K, D, device=device, seed=2)
    return [x0, noise, torch.linspace(0.1, 0.9, K).to(device)]


def eager(x0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    return level.sqrt()[:, None] * x0[:, None] + (1 - level).sqrt()[:, None] * noise


def _noising(B: int, D: int, device: str) -> Case:
    """As in aligned training."""
    args = inputs(B, D, device)
    runs = {
        OURS: without_grad(ops.q_sample, args),
        "eager": without_grad(eager, args),
        "compile": without_grad(compiled(eager), args),
    }
    return Case(
        "q_sample", f"B={B} K={K} D={D}", runs, lambda: (eager(*(t.double() for t in args)),), 1e-5,
        bytes=4 * B * D * (2 * K + 1), flops=3.0 * B * K * D, device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(ops.q_sample, inputs(B, 64, device))

    yield Scaling("q_sample", f"K={K} D=64", "B", rows, run, float)
