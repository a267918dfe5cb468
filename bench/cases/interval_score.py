"""The interval score against torch, eager and compiled."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, compiled, randn, with_backward, without_grad

LEVEL = 0.8


def cases(device: str, size: Size) -> Iterator[Case]:
    for B in {"tiny": (5,), "quick": (1 << 20,), "full": (1024, 1 << 20)}[size]:
        yield _case(B, device, backward=False)
        yield _case(B, device, backward=True)


def eager(lower: Tensor, upper: Tensor, y: Tensor) -> Tensor:
    return upper - lower + 2 / (1 - LEVEL) * (torch.relu(lower - y) + torch.relu(y - upper))


def ours(lower: Tensor, upper: Tensor, y: Tensor) -> Tensor:
    return ops.interval_score(lower, upper, y, LEVEL)


def _case(B: int, device: str, backward: bool) -> Case:
    lower, upper, y, g = (randn(B, device=device, seed=seed) for seed in (1, 2, 3, 4))
    upper = upper + 3  # most bounds are in order, and most labels inside

    def wrap(f: Any, doubles: bool = False) -> Run:
        *inputs, grad = (t.double() for t in (lower, upper, y, g)) if doubles else (lower, upper, y, g)
        return with_backward(f, inputs, [grad]) if backward else without_grad(f, inputs)

    def expected() -> tuple[Any, ...]:
        out = wrap(eager, doubles=True)()
        return out if isinstance(out, tuple) else (out,)

    name = f"forward{' + backward' if backward else ''} B={B}"
    runs = {OURS: wrap(ours), "eager": wrap(eager), "compile": wrap(compiled(eager))}
    return Case("interval_score", name, runs, expected, 1e-5, bytes=4 * B * (11 if backward else 4), device=device)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    rows = tuple(10**e for e in range(3, {"tiny": 4, "quick": 6, "full": 7}[size]))

    def run(B: int) -> Run:
        return without_grad(ours, [randn(B, device=device, seed=seed) for seed in (1, 2, 3)])

    yield Scaling("interval_score", "forward", "B", rows, run, float)
