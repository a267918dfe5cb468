"""Nested minimum against eager torch and torch.compile, as a loop and in the closed form of a cumulative sum."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import ordkernels
from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, Target, compiled, generator, with_backward, without_grad
from ._increments import inputs

Shapes = tuple[tuple[int, int, str], ...]  # B, K, what is measured
BOTH = ("forward", "forward + backward")
SHAPES: dict[tuple[str, Size], Shapes] = {
    ("cpu", "tiny"): tuple((5, 3, p) for p in BOTH),
    ("cpu", "quick"): tuple((1024, 8, p) for p in BOTH),
    ("cpu", "full"): (*((B, 8, p) for B in (1024, 10**6) for p in BOTH), (10**6, 64, "forward + backward")),
    ("cuda", "tiny"): tuple((5, 3, p) for p in BOTH),
    ("cuda", "quick"): tuple((10**6, 8, p) for p in BOTH),
    ("cuda", "full"): ((1024, 8, "forward + backward"), *((1 << 22, K, p) for K in (8, 64) for p in BOTH)),
}
FASTER = {(1024, 8, BOTH[1]): 5.0, (10**6, 8, BOTH[0]): 3.0, (10**6, 8, BOTH[1]): 5.0, (10**6, 64, BOTH[1]): 10.0}  # on a CPU, one thread


def loop(v: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, one increment after the other."""
    remaining, parts = c, []
    for a in torch.minimum(v.clamp(min=0), w).unbind(1):
        part = torch.minimum(a, remaining)
        remaining = remaining - part
        parts.append(part)
    clipped = torch.stack(parts, 1)
    return clipped.sum(1), clipped


def cumsum(v: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The clamped prefix sum in three passes."""
    a = torch.minimum(v.clamp(min=0), w)
    total = torch.minimum(a.cumsum(1), c[:, None])
    before = torch.cat([torch.zeros_like(total[:, :1]), total[:, :-1]], 1)
    return total[:, -1], torch.minimum(a, c[:, None] - before)


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, K, part in SHAPES[device, size]:
        yield _nested(B, K, part, device)


def _nested(B: int, K: int, part: str, device: str) -> Case:
    v, w, c = inputs(B, K, device)
    both = part != "forward"
    g = generator(device, 1)
    grads = [torch.randn(*shape, generator=g, device=device) for shape in ((B,), (B, K))]

    def run(function: Callable[..., Any]) -> Run:
        if not both:
            return without_grad(function, [v, w, c])
        return with_backward(lambda v, w: function(v, w, c), [v, w], grads)  # capacities are data

    def expected() -> tuple[Any, ...]:
        leaves = [t.double().requires_grad_(both) for t in (v, w)]
        with ordkernels.use_backend("reference"):
            out = ops.nested_min(leaves[0], leaves[1], c.double())
        return (*out, *torch.autograd.grad(out, leaves, [t.double() for t in grads])) if both else out

    runs = {
        OURS: run(ops.nested_min),
        "eager loop": run(loop),
        "eager cumsum": run(cumsum),
        "compile loop": run(compiled(loop)),
        "compile cumsum": run(compiled(cumsum)),
    }
    bytes_ = 4 * (2 * B * K + 2 * B + K)
    if both:  # and increments and gradients read, gradients written
        bytes_ += 4 * (3 * B * K + 2 * B + 2 * K)
    return Case(
        "nested_min", f"{part} B={B} K={K}", runs, expected, 1e-4, bytes=bytes_, device=device,
        targets=_targets(B, K, part, device),
    )  # fmt: skip


def _targets(B: int, K: int, part: str, device: str) -> list[Target]:
    if device == "cuda":
        return [Target("at least 85 % of the copy bandwidth", "limit", 0.85)] if B >= 1 << 20 else []
    factor = FASTER.get((B, K, part))
    return [Target(f"at least {factor:g}x the best baseline", "best baseline", factor)] if factor else []


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))
    B = {"tiny": 4, "quick": 4096, "full": 65536}[size]

    def forward(B: int, K: int) -> Run:
        return without_grad(ops.nested_min, list(inputs(B, K, device)))

    yield Scaling("nested_min", "forward, K=8", "B", rows, lambda n: forward(n, 8), float)
    yield Scaling("nested_min", f"forward, B={B}", "K", (4, 8, 16, 32, 64), lambda n: forward(B, n), lambda n: float(B * n))
