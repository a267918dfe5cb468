"""The pinball loss of quantiles against torch, eager and compiled."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, compiled, randn, with_backward, without_grad

L = 20


def cases(device: str, size: Size) -> Iterator[Case]:
    rows = {"tiny": (5,), "quick": (65_536,), "full": (1024, 65_536)}[size]
    for B in (1024, 1 << 20) if device == "cuda" and size == "full" else rows:
        yield _pinball(B, device, backward=False)
        yield _pinball(B, device, backward=True)


def inputs(B: int, device: str) -> list[Tensor]:
    """Quantiles [B, L], labels [B], levels [L]."""
    return [randn(B, L, device=device, seed=1), randn(B, device=device, seed=2), ((torch.arange(L) + 0.5) / L).to(device)]


def eager(q: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    d = y[:, None] - q
    return torch.maximum(levels * d, (levels - 1) * d)


def _pinball(B: int, device: str, backward: bool) -> Case:
    """Trained are the quantiles; labels and levels are data."""
    args, grad = inputs(B, device), randn(B, L, device=device, seed=3)

    def wrap(f: Callable[..., Tensor], args: list[Tensor] = args, grad: Tensor = grad) -> Run:
        if backward:
            return with_backward(lambda q: f(q, *args[1:]), args[:1], [grad])
        return lambda: (without_grad(f, args)(),)

    return Case(
        "pinball", f"forward{' + backward' if backward else ''} B={B} L={L}",
        {OURS: wrap(ops.pinball), "eager": wrap(eager), "compile": wrap(compiled(eager))},
        wrap(eager, [t.double() for t in args], grad.double()), 1e-5,
        bytes=4 * B * (2 * L + 1) + (4 * B * (3 * L + 1) if backward else 0), device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(ops.pinball, inputs(B, device))

    yield Scaling("pinball", f"forward, L={L}", "B", rows, run, float)
