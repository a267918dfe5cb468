"""The CRPS loss against torch, eager and compiled, by a sort and by all pairs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, compiled, randn, with_backward, without_grad

L = 20


def cases(device: str, size: Size) -> Iterator[Case]:
    rows = {"tiny": (5,), "quick": (65_536,), "full": (1024, 65_536)}[size]
    for B in (1024, 1 << 20) if device == "cuda" and size == "full" else rows:
        yield _crps(B, device, backward=False)
        yield _crps(B, device, backward=True)


def eager_crps(samples: Tensor, y: Tensor) -> Tensor:
    n = samples.shape[1]
    d = (samples - y[:, None]).sort(dim=1).values
    lift = (2 * torch.arange(n, device=d.device, dtype=d.dtype) - (n - 1)) / (n * (n - 1))
    return d.abs().mean(1) - (d * lift).sum(1)


def pairwise_crps(samples: Tensor, y: Tensor) -> Tensor:
    """All L^2 differences, no sort."""
    n = samples.shape[1]
    spread = (samples[:, :, None] - samples[:, None, :]).abs().sum((1, 2))
    return (samples - y[:, None]).abs().mean(1) - spread / (2 * n * (n - 1))


def our_crps(samples: Tensor, y: Tensor) -> Tensor:
    return ops.crps(samples, y, fair=True)


def _crps(B: int, device: str, backward: bool) -> Case:
    samples, y, grads = randn(B, L, device=device, seed=1), randn(B, device=device, seed=2), [randn(B, device=device, seed=3)]

    def wrap(f: Any, doubles: bool = False) -> Run:
        s, t, g = ([x.double() for x in (samples, y, grads[0])]) if doubles else (samples, y, grads[0])
        return with_backward(lambda s: f(s, t), [s], [g]) if backward else without_grad(f, [s, t])

    def expected() -> tuple[Any, ...]:
        out = wrap(eager_crps, doubles=True)()
        return out if isinstance(out, tuple) else (out,)

    return Case(
        "crps", f"fair, forward{' + backward' if backward else ''} B={B} L={L}",
        {
            OURS: wrap(our_crps), "eager": wrap(eager_crps), "compile": wrap(compiled(eager_crps)),
            "compile, all pairs": wrap(compiled(pairwise_crps)),
        },
        expected, 1e-4, bytes=4 * B * (L + 2) + (4 * B * (2 * L + 1) if backward else 0), device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(our_crps, [randn(B, L, device=device, seed=1), randn(B, device=device, seed=2)])

    yield Scaling("crps", f"fair, forward, L={L}", "B", rows, run, float)
