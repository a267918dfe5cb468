"""What the tests of increments share."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import ordkernels
from ordkernels.ops import encode_increments, nested_min

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


KERNEL = torch.ops.ordkernels


native = pytest.mark.native


INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"


DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRET else "cpu"


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (INTERPRET or DEVICE == "cuda"),
    reason="neither TRITON_INTERPRET=1 nor a GPU, or no triton",
)


def both_backends(f: Any) -> tuple[Any, Any]:
    here = f()
    with ordkernels.use_backend("reference"):
        return here, f()


def results(v: Tensor, w: Tensor, capacity: Any, which: str = "both") -> list[Tensor]:
    """Outputs and the gradients of everything, with gradients of one output or of both."""
    args = [t.detach().clone().requires_grad_() for t in (v, w, *([capacity] if isinstance(capacity, Tensor) else []))]
    out = nested_min(args[0], args[1], args[2] if len(args) == 3 else capacity)
    g = [torch.linspace(-1, 1, t.numel(), dtype=torch.float64).mul(8).round().div(8).view(t.shape).to(t.dtype) for t in out]
    chosen = {"both": (0, 1), "value": (0,), "clipped": (1,)}[which]
    return [*(t.detach() for t in out), *torch.autograd.grad([out[i] for i in chosen], args, [g[i] for i in chosen])]


def results_on_grids(dtype: torch.dtype, B: int, K: int, shared: bool, capacity: Any, device: str) -> Callable[[], list[Tensor]]:
    """A call of both ops: outputs and gradients of numbers in quarters, which no sum rounds."""
    v = torch.randint(-1, 6, (B, K)).div(4).to(device, dtype)
    w = torch.randint(0, 6, (K,) if shared else (B, K)).div(4).to(device, dtype)
    y = torch.randint(-2, 4 * K, (B,)).div(4).to(device, dtype)
    cap = torch.randint(0, 3 * K, (B,)).div(4).to(device, dtype) if capacity == "rows" else capacity

    def run() -> list[Tensor]:
        args = [y.clone().requires_grad_(), w.clone().requires_grad_()]
        out = encode_increments(*args)
        g = torch.arange(out.numel(), device=device).view_as(out).remainder(3).to(dtype)
        return [*results(v, w, cap), *results(v, w, cap, "value")[2:], out.detach(), *torch.autograd.grad(out, args, g)]

    return run


floats = st.floats(-2, 4, width=32)
