"""What the tests of increments share."""

import importlib.util
import os
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import ordkernels
from ordkernels.ops import nested_min

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


floats = st.floats(-2, 4, width=32)
