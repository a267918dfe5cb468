"""What the tests of one step of diffusion or flow matching share."""

import importlib.util
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from ordkernels.ops import flow_sample, flow_step, predict_x0, q_sample, reverse_step

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


PREDICTIONS = ("eps", "x0", "v")


KERNEL = torch.ops.ordkernels


native = pytest.mark.native


INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"


DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRET else "cpu"


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (INTERPRET or DEVICE == "cuda"),
    reason="neither TRITON_INTERPRET=1 nor a GPU, or no triton",
)


X = torch.zeros(2, 3)


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64).to(dtype), torch.randn(shape, dtype=torch.float64).to(dtype)


def levels(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """alpha_bar of t and of s < t."""
    t = torch.rand(shape, dtype=torch.float64) * 0.5 + 0.05
    return t.to(dtype), (t + (1 - t) * (torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1)).to(dtype)


def by_formula(
    x: Tensor, out: Tensor, t: Tensor, s: Tensor, eta: float, prediction: str, clip: float | None, reclip: bool, xi: Any
) -> tuple[Tensor, Tensor]:
    """As the papers write it, in fp64."""
    x, out, t, s = x.double(), out.double(), t[..., None], s[..., None]
    if prediction == "eps":
        eps, x0 = out, (x - (1 - t).sqrt() * out) / t.sqrt()
    elif prediction == "x0":
        eps, x0 = (x - t.sqrt() * out) / (1 - t).sqrt(), out
    else:
        eps, x0 = t.sqrt() * out + (1 - t).sqrt() * x, t.sqrt() * x - (1 - t).sqrt() * out
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    if reclip:
        eps = (x - t.sqrt() * x0) / (1 - t).sqrt()
    sigma = eta * ((1 - s) / (1 - t)).sqrt() * (1 - t / s).sqrt()
    return s.sqrt() * x0 + (1 - s - sigma**2).sqrt() * eps + sigma * xi, x0


def gradients(out: Any, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    out = (out,) if isinstance(out, Tensor) else out
    g = [
        torch.linspace(-1, 1, t.numel(), dtype=torch.float64).cos().mul(64).round().div(64).view(t.shape).to(t) for t in out
    ]  # exact in all dtypes
    return torch.autograd.grad(out, leaves, g, allow_unused=True, materialize_grads=True)


def everything(x: Tensor, out: Tensor, x0: Tensor, noise: Tensor, t: Any, s: Any, prediction: Any, clip: float | None) -> list[Tensor]:
    """Outputs and all gradients of all the ops."""
    x, out, x0, noise = (a.detach().clone().requires_grad_() for a in (x, out, x0, noise))
    t, s = (a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in (t, s))
    ts = [t, s] if isinstance(t, Tensor) else []
    r: list[Tensor] = []
    for y, leaves in (
        (reverse_step(x, out, t, s, eta=0.5, prediction=prediction, clip=clip, noise=noise), [x, out, noise, *ts]),
        (predict_x0(x, out, t, prediction=prediction, clip=clip), [x, out, *ts[:1]]),
        (q_sample(x0, noise, t), [x0, noise, *ts[:1]]),
        (flow_sample(x0, noise, t), [x0, noise, *ts[:1]]),
        (flow_step(x, out, t, s), [x, out, *ts]),
    ):
        r += [y.detach()] if isinstance(y, Tensor) else [a.detach() for a in y]
        r += gradients(y, leaves)
    return r
