"""Planar flows against eager torch, torch.compile, Pyro and normflows."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops
from ordkernels.reference import planar_flow as reference

from . import OURS, Case, Run, Scaling, Size, Target, compiled, optional, randn, with_backward, without_grad

SHAPES: dict[tuple[str, Size], tuple[tuple[int, int, int], ...]] = {  # B, K, D
    ("cpu", "tiny"): ((5, 2, 3),),
    ("cpu", "quick"): ((1024, 4, 64),),
    ("cpu", "full"): ((1024, 4, 64), (65536, 4, 64)),
    ("cuda", "tiny"): ((5, 2, 3),),
    ("cuda", "quick"): ((65536, 4, 64),),
    ("cuda", "full"): ((1024, 4, 64), (1 << 20, 4, 64)),
}
H = 64


def eager(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The constrained flow as one writes it in torch (unbind, whose backward is far cheaper than indexing's)."""
    wu = (w * u).sum(-1, keepdim=True)
    u = u + (F.softplus(wu) - 1 - wu) * w / (w * w).sum(-1, keepdim=True)
    total: Any = 0
    for uk, wk, bk in zip(u.unbind(-2), w.unbind(-2), b.unbind(-1), strict=True):
        t = torch.tanh((wk * z).sum(-1) + bk)
        z = z + uk * t[..., None]
        total = total + torch.log(torch.abs(1 + (1 - t * t) * (wk * uk).sum(-1)))
    return z, total


def eager_inverse(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Per layer 40 bisections of the scalar equation: what one can write without a kernel."""
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


def eager_conditional(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = z.shape[-1]
    u, w, b = F.linear(h, weight, bias).unflatten(1, (-1, 2 * D + 1)).split([D, D, 1], -1)
    return eager(z, u, w, b[..., 0])


def unfused(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = z.shape[-1]
    u, w, b = F.linear(h, weight, bias).unflatten(1, (-1, 2 * D + 1)).split([D, D, 1], -1)
    return ops.planar_flow(z, u, w, b[..., 0])


def inputs(B: int, K: int, D: int, device: str, shared: bool = False) -> list[Tensor]:
    lead = () if shared else (B,)
    scale = D**-0.5
    return [
        randn(B, D, device=device, seed=1),
        randn(*lead, K, D, device=device, seed=2, scale=scale),
        randn(*lead, K, D, device=device, seed=3, scale=scale),
        randn(*lead, K, device=device, seed=4),
    ]


def conditional_inputs(B: int, K: int, D: int, device: str) -> list[Tensor]:
    rows = K * (2 * D + 1)
    return [
        randn(B, D, device=device, seed=1),
        randn(B, H, device=device, seed=2),
        randn(rows, H, device=device, seed=3, scale=(H * D) ** -0.5),
        randn(rows, device=device, seed=4, scale=D**-0.5),
    ]


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, K, D in SHAPES[device, size]:
        yield _forward(B, K, D, device)
        yield _forward_backward(B, K, D, device)
        yield _inverse(B, K, D, device)
        yield _shared(B, K, D, device)
    if size == "tiny":
        yield _conditional(5, 2, 3, device)
    elif size == "full":
        yield _conditional(65536, 4, 64, device)


def _forward(B: int, K: int, D: int, device: str) -> Case:
    args = inputs(B, K, D, device)
    runs, missing = _rivals(lambda f: without_grad(f, args))
    on_gpu = [Target("at least 85 % of the copy bandwidth", "limit", 0.85)] if B >= 1 << 20 else []
    return Case(
        "planar_flow", f"forward B={B} K={K} D={D}", runs, lambda: _truth(args), 1e-4,
        bytes=_forward_bytes(B, K, D), flops=_flops(B, K, D), missing=missing, yardsticks=("reference",), device=device,
        targets=on_gpu if device == "cuda" else [_at_least(4 if B <= 4096 else 2)],
    )  # fmt: skip


def _forward_backward(B: int, K: int, D: int, device: str) -> Case:
    args, grads = inputs(B, K, D, device), [randn(B, D, device=device, seed=5), randn(B, device=device, seed=6)]
    runs, missing = _rivals(lambda f: with_backward(f, args, grads))
    on_gpu = [Target("at least 75 % of the copy bandwidth", "limit", 0.75)] if B >= 1 << 20 else []
    return Case(
        "planar_flow", f"forward + backward B={B} K={K} D={D}", runs, lambda: _truth(args, grads), 1e-3,
        bytes=_forward_bytes(B, K, D) + _backward_bytes(B, K, D), flops=4 * _flops(B, K, D), missing=missing,
        yardsticks=("reference",), device=device, targets=on_gpu if device == "cuda" else [_at_least(4 if B <= 4096 else 3)],
    )  # fmt: skip


def _inverse(B: int, K: int, D: int, device: str) -> Case:
    args = inputs(B, K, D, device)
    runs: dict[str, Run] = {
        OURS: without_grad(ops.planar_flow_inverse, args),
        "eager bisection": without_grad(eager_inverse, args),
        "compile bisection": without_grad(compiled(eager_inverse), args),
        "our forward": without_grad(ops.planar_flow, args),
    }

    def truth() -> tuple[Any, ...]:
        z, u, w, b = (t.double() for t in args)
        return reference.planar_flow_inverse(z, u, w, b)[:2]

    case = Case(
        "planar_flow", f"inverse B={B} K={K} D={D}", runs, truth, 1e-3, bytes=_forward_bytes(B, K, D), flops=_flops(B, K, D),
        yardsticks=("our forward",), device=device, targets=[Target("at most 2x our own forward", "our forward", 0.5)],
    )  # fmt: skip
    forward = _truth(args)
    inverse = truth()
    case.outputs["our forward"] = lambda out: inverse if _close(out, forward) else ()
    return case


def _close(out: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> bool:
    return all(float((a.double() - b).abs().max()) <= 1e-4 * float(b.abs().max()) for a, b in zip(out, truth, strict=True))


def _shared(B: int, K: int, D: int, device: str) -> Case:
    """One set of parameters for all rows: normflows' case."""
    args = inputs(B, K, D, device, shared=True)
    runs, missing = _rivals(lambda f: without_grad(f, args))
    nf = optional("normflows", missing, "normflows")
    if nf is not None:
        layers = [nf.flows.Planar((D,), u=u[None], w=w[None], b=b[None]) for u, w, b in zip(*args[1:], strict=True)]

        def normflows(z: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
            total: Any = 0
            for layer in layers:
                z, log_det = layer(z)
                total = total + log_det
            return z, total

        runs["normflows"] = without_grad(normflows, args)
    return Case(
        "planar_flow", f"forward, shared parameters, B={B} K={K} D={D}", runs, lambda: _truth(args), 1e-4,
        bytes=4 * (2 * B * D + B + 2 * K * D + K), flops=_flops(B, K, D), missing=missing, yardsticks=("reference",), device=device,
    )  # fmt: skip


def _conditional(B: int, K: int, D: int, device: str) -> Case:
    args, grads = conditional_inputs(B, K, D, device), [randn(B, D, device=device, seed=5), randn(B, device=device, seed=6)]
    runs: dict[str, Run] = {
        OURS: with_backward(ops.conditional_planar_flow, args, grads),
        "eager": with_backward(eager_conditional, args, grads),
        "compile": with_backward(compiled(eager_conditional), args, grads),
        "linear + our planar_flow": with_backward(unfused, args, grads),
    }

    def truth() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            return with_backward(ops.conditional_planar_flow, [t.double() for t in args], [g.double() for g in grads])()

    rows = K * (2 * D + 1)
    return Case(
        "planar_flow", f"conditional, forward + backward B={B} K={K} D={D} H={H}", runs, truth, 1e-3,
        bytes=4 * (B * (4 * D + 3 * H + 3) + 3 * rows * (H + 1)), flops=6.0 * B * H * rows + 4 * _flops(B, K, D),
        yardsticks=("linear + our planar_flow",), device=device,
        targets=[_at_least(1.5), Target("peak extra memory at most 1/8 of eager's", "memory", 1 / 8)],
    )  # fmt: skip


def _rivals(wrap: Callable[[Callable[..., Any]], Run]) -> tuple[dict[str, Run], dict[str, str]]:
    missing: dict[str, str] = {}
    plain = wrap(ops.planar_flow)

    def on_reference() -> Any:
        with ordkernels.use_backend("reference"):
            return plain()

    runs = {OURS: plain, "reference": on_reference, "eager": wrap(eager), "compile": wrap(compiled(eager))}
    pyro = optional("pyro.distributions.transforms.planar", missing, "Pyro")
    if pyro is not None:

        def by_pyro(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            total: Any = 0
            for uk, wk, bk in zip(u.unbind(-2), w.unbind(-2), b.unbind(-1), strict=True):
                layer = pyro.ConditionedPlanar((bk[..., None], uk, wk))
                z = layer(z)
                total = total + layer._cached_logDetJ
            return z, total.reshape(z.shape[:-1])

        runs["Pyro"] = wrap(by_pyro)
    return runs, missing


def _truth(args: list[Tensor], grads: list[Tensor] | None = None) -> tuple[Any, ...]:
    wide = [t.double() for t in args]
    with ordkernels.use_backend("reference"):
        return ops.planar_flow(*wide) if grads is None else with_backward(ops.planar_flow, wide, [g.double() for g in grads])()


def _at_least(factor: float) -> Target:
    return Target(f"at least {factor:g}x the best rival", "best rival", factor)


def _forward_bytes(B: int, K: int, D: int) -> int:
    return 4 * (B * K * (2 * D + 1) + 2 * B * D + B)


def _backward_bytes(B: int, K: int, D: int) -> int:
    """Parameters read, their gradients written, z and its two gradients, log_det's gradient, and the a_k written and read."""
    return 4 * (2 * B * K * (2 * D + 1) + 3 * B * D + B + 2 * B * K)


def _flops(B: int, K: int, D: int) -> float:
    """w.z, w.u, w.w, uhat, z + uhat t: two operations a column each; the scalars of a layer as 30."""
    return float(B * K * (10 * D + 30))


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6 if device == "cpu" else 7}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))
    B = {"tiny": 4, "quick": 4096, "full": 16384 if device == "cpu" else 1 << 18}[size]
    yield Scaling("planar_flow", "forward, K=4 D=16", "B", rows, lambda n: without_grad(ops.planar_flow, inputs(n, 4, 16, device)), float)
    yield Scaling(
        "planar_flow", f"forward, B={B} D=16", "K", (1, 2, 4, 8, 16),
        lambda n: without_grad(ops.planar_flow, inputs(B, n, 16, device)), lambda n: float(B * n),
    )  # fmt: skip
    yield Scaling(
        "planar_flow", f"forward, B={B} K=4", "D", (8, 16, 32, 64, 128),
        lambda n: without_grad(ops.planar_flow, inputs(B, 4, n, device)), lambda n: float(B * n),
    )  # fmt: skip
