"""Every GPU kernel once on small and odd shapes, for compute-sanitizer: checks the results, and leaves the rest to the tool.

python bench/gpu_smoke.py              on a GPU
TRITON_INTERPRET=1 python bench/gpu_smoke.py --device cpu      the same calls in Triton's interpreter
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import cases
import torch

import ordkernels
from ordkernels import ops
from ordkernels.testing.interpreter import vectorize_xor


def main() -> None:
    parser = argparse.ArgumentParser("bench/gpu_smoke.py")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    if reasons := ordkernels.available_backends("planar_flow")["triton"]:
        raise SystemExit(f"no GPU backend: {'; '.join(reasons)}")
    if device == "cpu":
        vectorize_xor()
    torch.manual_seed(0)
    many = 129 if device == "cuda" else 17  # rows: the interpreter runs one program after the other
    for B, N, K, D in ((1, 1, 1, 1), (5, 3, 2, 7), (many, 1, 4, 64)):
        flow(device, B, N, K, D)
    ran = [name for name in cases.NAMES if run_cases(name, device)]
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"ran {', '.join(ran)}")


def on_triton(device: str) -> Any:
    """A GPU takes Triton by itself."""
    return ordkernels.use_backend("triton") if device == "cpu" else nullcontext()


def run_cases(name: str, device: str) -> bool:
    """The tiny cases of a benchmark, where a GPU kernel serves them: ours against the expected results."""
    some = False
    for case in cases.cases(name, device, "tiny"):
        expected = case.expected_values()
        try:
            with on_triton(device):
                error = case.error(cases.OURS, expected)
        except RuntimeError as why:
            if device == "cpu" and "cannot run on the backend 'triton'" in str(why):  # of NumPy arrays
                continue
            raise
        assert error <= case.tolerances.get(cases.OURS, case.tolerance), (case.op, case.name, error)
        some = True
    return some


def flow(device: str, B: int, N: int, K: int, D: int) -> None:
    """Several samples per set of parameters, which no benchmark has."""
    z, u, w = (torch.randn(*s, device=device, requires_grad=True) for s in ((B, N, D), (B, K, D), (B, K, D)))
    b = torch.randn(B, K, device=device, requires_grad=True)
    for op in (ops.planar_flow, ops.planar_flow_inverse):
        results = []
        for backend in ("triton", "reference"):
            with ordkernels.use_backend(backend):
                out, log_det = op(z, u, w, b)
                results.append((out, log_det, *torch.autograd.grad((out.sum(), log_det.sum()), (z, u, w, b))))
        for got, expected in zip(*results, strict=True):
            scale = expected.abs().max().clamp(min=1)
            assert (got - expected).abs().max() <= 1e-2 * scale, (op.__name__, B, N, K, D)


if __name__ == "__main__":
    main()
