"""Every GPU kernel once on small and odd shapes, for compute-sanitizer: checks the results, and leaves the rest to the tool."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import ordkernels
from ordkernels import ops, rng


def main() -> None:
    torch.manual_seed(0)
    backends = [name for name in ("triton", "cuda") if not ordkernels.available_backends("planar_flow")[name]]
    if not backends:
        raise SystemExit(f"no GPU backend: {ordkernels.available_backends('planar_flow')}")
    for backend in backends:
        for B, N, K, D in ((1, 1, 1, 1), (5, 3, 2, 7), (129, 1, 4, 64)):
            flow(backend, B, N, K, D)
        loss(backend)
    noise()
    torch.cuda.synchronize()
    print(f"ran on {', '.join(backends)}")


def flow(backend: str, B: int, N: int, K: int, D: int) -> None:
    z, u, w = (torch.randn(*s, device="cuda", requires_grad=True) for s in ((B, N, D), (B, K, D), (B, K, D)))
    b = torch.randn(B, K, device="cuda", requires_grad=True)
    h, weight = (torch.randn(*s, device="cuda", requires_grad=True) for s in ((B, 16), (K * (2 * D + 1), 16)))
    bias = torch.randn(K * (2 * D + 1), device="cuda", requires_grad=True)
    calls = ((ops.planar_flow, (z, u, w, b)), (ops.planar_flow_inverse, (z, u, w, b)), (ops.conditional_planar_flow, (z, h, weight, bias)))
    for op, args in calls:
        results = []
        for name in (backend, "reference"):
            if ordkernels.available_backends(op.__name__)[name]:
                continue
            with ordkernels.use_backend(name):
                out, log_det = op(*args)
                results.append((out, log_det, *torch.autograd.grad((out.sum(), log_det.sum()), args)))
        if len(results) == 2:
            for got, expected in zip(*results, strict=True):
                scale = expected.abs().max().clamp(min=1)
                assert (got - expected).abs().max() <= 1e-2 * scale, (op.__name__, B, N, K, D)


def loss(backend: str) -> None:
    if ordkernels.available_backends("wasserstein_quantile_loss")[backend]:
        return
    s = torch.randn(33, 20, device="cuda", requires_grad=True)
    q = torch.randn(33, 20, device="cuda").sort(dim=1).values
    with ordkernels.use_backend(backend):
        ops.wasserstein_quantile_loss(s, q, q, lam=0.5).sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def noise() -> None:
    ids = torch.arange(37, device="cuda")
    assert (rng.normal(3, ids, step=1, width=5).cpu() - rng.normal(3, ids.cpu(), step=1, width=5)).abs().max() < 1e-5
    assert torch.equal(rng.uniform(3, ids, step=1, width=5).cpu(), rng.uniform(3, ids.cpu(), step=1, width=5))


if __name__ == "__main__":
    main()
