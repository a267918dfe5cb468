"""What the tests of crps and pinball share."""

import os

import pytest
import torch

import ordkernels

DEVICE = os.environ.get("ORDKERNELS_TEST_DEVICE", "cpu")


native = pytest.mark.native


def triton_reasons() -> str:
    return "; ".join(ordkernels.available_backends("crps")["triton"])


BACKENDS = [
    pytest.param("cpu", marks=[native, pytest.mark.skipif(DEVICE != "cpu", reason="native CPU kernels serve CPU tensors")]),
    pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(triton_reasons()), reason=triton_reasons() or "-")]),
]


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


LEVELS = {L: torch.linspace(0, 1, L + 2, dtype=torch.float64)[1:-1].to(DEVICE) for L in (1, 2, 3, 6, 9, 20, 129)}


def make(B, L, dtype=torch.float32, ties=False):
    g = torch.Generator().manual_seed(1000 * L + B)
    s, y = torch.randn(B, L, generator=g) * 3, torch.randn(B, generator=g)
    if ties:
        s, y = s.round(), y.round()
    return s.to(dtype).to(DEVICE), y.to(dtype).to(DEVICE)


def by_definition(s, y, fair):
    L = s.shape[1]
    spread = (s[:, :, None] - s[:, None, :]).abs().sum((1, 2)) / max(L * (L - fair), 1)
    return (s - y[:, None]).abs().mean(1) - spread / 2


def with_gradients(f, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = f(*leaves)
    weights = torch.linspace(0.5, 2, out.numel(), device=out.device, dtype=torch.float64).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]
