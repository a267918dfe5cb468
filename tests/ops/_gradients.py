"""Results and gradients of an op beside those of plain torch."""

from typing import Any

import torch
from torch import Tensor


def with_gradients(f: Any, *inputs: Tensor) -> list[Tensor]:
    inputs = tuple(t.detach().requires_grad_() for t in inputs)
    out = f(*inputs)
    g = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, g)]


def assert_equal_to_rounding(got: list[Tensor], want: list[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max()) if b.numel() else 0))
