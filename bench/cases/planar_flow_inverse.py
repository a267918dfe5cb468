"""The inverse of the planar flow against a bisection in torch, eager and compiled."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, Target, compiled, without_grad
from ._planar_flow import SHAPES, expected_flow, flops, forward_bytes, inputs


def eager_inverse(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Per layer 40 bisections of the scalar equation: what plain torch can do."""
    wu = (w * u).sum(-1, keepdim=True)
    u = u + (F.softplus(wu) - 1 - wu) * w / (w * w).sum(-1, keepdim=True)
    total: Any = 0
    for uk, wk, bk in zip(u.unbind(-2)[::-1], w.unbind(-2)[::-1], b.unbind(-1)[::-1], strict=True):
        s, r = (wk * uk).sum(-1), (wk * z).sum(-1) + bk
        low, high = r - s.abs(), r + s.abs()
        for _ in range(40):
            middle = (low + high) / 2
            right = middle + s * torch.tanh(middle) > r
            low, high = torch.where(right, low, middle), torch.where(right, middle, high)
        t = torch.tanh((low + high) / 2)
        z = z - uk * t[..., None]
        total = total + torch.log(torch.abs(1 + (1 - t * t) * s))
    return z, total


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, K, D in SHAPES[device, size]:
        yield _inverse(B, K, D, device)


def _inverse(B: int, K: int, D: int, device: str) -> Case:
    args = inputs(B, K, D, device)
    runs: dict[str, Run] = {
        OURS: without_grad(ops.planar_flow_inverse, args),
        "eager bisection": without_grad(eager_inverse, args),
        "compile bisection": without_grad(compiled(eager_inverse), args),
        "our forward": without_grad(ops.planar_flow, args),
    }

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            return ops.planar_flow_inverse(*(t.double() for t in args))

    case = Case(
        "planar_flow_inverse", f"B={B} K={K} D={D}", runs, expected, 1e-3, bytes=forward_bytes(B, K, D), flops=flops(B, K, D),
        context=("our forward",), device=device, targets=[Target("at most 2x our own forward", "our forward", 0.5)],
    )  # fmt: skip
    forward = expected_flow(args)
    inverse = expected()
    case.outputs["our forward"] = lambda out: inverse if _close(out, forward) else ()
    return case


def _close(out: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(float((a.double() - b).abs().max()) <= 1e-4 * float(b.abs().max()) for a, b in zip(out, expected, strict=True))


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6 if device == "cpu" else 7}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(ops.planar_flow_inverse, inputs(B, 4, 16, device))

    yield Scaling("planar_flow_inverse", "K=4 D=16", "B", rows, run, float)
