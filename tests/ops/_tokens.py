"""What the tests of value tokens share."""

import importlib.util
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor

import ordkernels
from ordkernels.ops import embedding_mixup, windowed_value

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


KERNEL = torch.ops.ordkernels


native = pytest.mark.native


NATIVE_AND_REFERENCE = pytest.mark.parametrize("backend", ["reference", None])


INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"


DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRET else "cpu"


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (INTERPRET or DEVICE == "cuda"),
    reason="neither TRITON_INTERPRET=1 nor a GPU, or no triton",
)


X, TABLE = torch.ones(2, 5), torch.ones(5, 3)


class _None:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def on(backend: str | None) -> Any:
    return ordkernels.use_backend(backend) if backend else _None()


def inputs(R: int, V: int, E: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """logits with ties in every fourth row, embedding, values (0 for specials)."""
    x = torch.randn(R, V, dtype=torch.float64) * scale
    x[::4] = x[::4].round()
    values = torch.rand(V, dtype=torch.float64).sort(descending=True).values * 10
    values[:3] = 0
    return x.to(dtype), torch.randn(V, E, dtype=torch.float64).to(dtype), values.to(dtype)


def results(x: Tensor, e: Tensor, v: Tensor, window: int | None) -> list[Tensor]:
    """Both outputs, and the gradients of everything."""
    x, e, v = (t.detach().clone().requires_grad_() for t in (x, e, v))
    mixed, value = embedding_mixup(x, e, window=window), windowed_value(x, v, window=window)
    g = [torch.linspace(-1, 1, t.numel(), dtype=torch.float64).mul(64).round().div(64).view(t.shape).to(t.dtype) for t in (mixed, value)]
    return [mixed.detach(), value.detach(), *torch.autograd.grad(mixed, (x, e), g[0]), *torch.autograd.grad(value, (x, v), g[1])]


def by_hand(x: list[float], e: list[list[float]], v: list[float], window: int | None, first: int) -> tuple[list[float], float]:
    V, m = len(x), x.index(max(x))
    b = V if window is None else window // 2
    around = [j for j in range(V) if abs(j - m) <= b]
    mix = around if window is None else [m] if m < first else [j for j in around if j >= first]
    weights = [math.exp(x[j] - x[m]) for j in mix]
    mixed = [sum(w * e[j][k] for w, j in zip(weights, mix, strict=True)) / sum(weights) for k in range(len(e[0]))]
    total = sum(math.exp(t - x[m]) for t in x)
    return mixed, sum(math.exp(x[j] - x[m]) / total * v[j] for j in around)
