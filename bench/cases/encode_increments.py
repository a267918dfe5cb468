"""Encoding of numbers as increments against eager torch and torch.compile."""

from collections.abc import Iterator

import torch
from torch import Tensor

import ordkernels
from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, compiled, generator, without_grad
from ._increments import inputs

SHAPES: dict[tuple[str, Size], tuple[int, int]] = {  # B, K
    ("cpu", "tiny"): (5, 3),
    ("cpu", "quick"): (1024, 8),
    ("cpu", "full"): (10**6, 8),
    ("cuda", "tiny"): (5, 3),
    ("cuda", "quick"): (10**6, 8),
    ("cuda", "full"): (1 << 22, 8),
}


def eager(y: Tensor, w: Tensor) -> Tensor:
    edges = w.cumsum(0) - w
    return torch.minimum((y[:, None] - edges).clamp(min=0), w)


def cases(device: str, size: Size) -> Iterator[Case]:
    yield _encode(*SHAPES[device, size], device)


def labels(B: int, K: int, device: str) -> list[Tensor]:
    _, w, _ = inputs(1, K, device)
    return [torch.rand(B, generator=generator(device, 2), device=device) * K, w]


def _encode(B: int, K: int, device: str) -> Case:
    y, w = labels(B, K, device)

    def expected() -> tuple[Tensor]:
        with ordkernels.use_backend("reference"):
            return (ops.encode_increments(y.double(), w.double()),)

    runs = {
        OURS: without_grad(ops.encode_increments, [y, w]),
        "eager": without_grad(eager, [y, w]),
        "compile": without_grad(compiled(eager), [y, w]),
    }
    return Case(
        "encode_increments", f"B={B} K={K}", runs, expected, 1e-5,
        bytes=4 * (B * K + B + K), device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(ops.encode_increments, labels(B, 8, device))

    yield Scaling("encode_increments", "K=8", "B", rows, run, float)
