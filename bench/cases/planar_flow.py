"""The planar flow against eager torch, torch.compile, Pyro and normflows."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

import ordkernels
from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, Target, compiled, optional, randn, with_backward, without_grad
from ._planar_flow import SHAPES, at_least, backward_bytes, eager, expected_flow, flops, forward_bytes, inputs


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, K, D in SHAPES[device, size]:
        yield _forward(B, K, D, device)
        yield _forward_backward(B, K, D, device)
        yield _shared(B, K, D, device)


def _forward(B: int, K: int, D: int, device: str) -> Case:
    args = inputs(B, K, D, device)
    runs, missing = _baselines(lambda f: without_grad(f, args))
    on_gpu = [Target("at least 85 % of the copy bandwidth", "limit", 0.85)] if B >= 1 << 20 else []
    return Case(
        "planar_flow", f"forward B={B} K={K} D={D}", runs, lambda: expected_flow(args), 1e-4,
        bytes=forward_bytes(B, K, D), flops=flops(B, K, D), missing=missing, context=("reference",), device=device,
        targets=on_gpu if device == "cuda" else [at_least(4 if B <= 4096 else 2)],
    )  # fmt: skip


def _forward_backward(B: int, K: int, D: int, device: str) -> Case:
    args, grads = inputs(B, K, D, device), [randn(B, D, device=device, seed=5), randn(B, device=device, seed=6)]
    runs, missing = _baselines(lambda f: with_backward(f, args, grads))
    on_gpu = [Target("at least 75 % of the copy bandwidth", "limit", 0.75)] if B >= 1 << 20 else []
    return Case(
        "planar_flow", f"forward + backward B={B} K={K} D={D}", runs, lambda: expected_flow(args, grads), 1e-3,
        bytes=forward_bytes(B, K, D) + backward_bytes(B, K, D), flops=4 * flops(B, K, D), missing=missing,
        context=("reference",), device=device, targets=on_gpu if device == "cuda" else [at_least(4 if B <= 4096 else 3)],
    )  # fmt: skip


def _shared(B: int, K: int, D: int, device: str) -> Case:
    """One set of parameters for all rows: normflows' case."""
    args = inputs(B, K, D, device, shared=True)
    runs, missing = _baselines(lambda f: without_grad(f, args))
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
        "planar_flow", f"forward, shared parameters, B={B} K={K} D={D}", runs, lambda: expected_flow(args), 1e-4,
        bytes=4 * (2 * B * D + B + 2 * K * D + K), flops=flops(B, K, D), missing=missing, context=("reference",), device=device,
    )  # fmt: skip


def _baselines(wrap: Callable[[Callable[..., Any]], Run]) -> tuple[dict[str, Run], dict[str, str]]:
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
