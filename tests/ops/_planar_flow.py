"""What the tests of planar flows share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ordkernels.ops import conditional_planar_flow, planar_flow, planar_flow_inverse
from ordkernels.reference import planar_flow as reference
from ordkernels.reference import planar_flow_inverse as inverse_reference
from ordkernels.reference._common import compute_dtype
from ordkernels.testing.compare import assert_within_budget
from ordkernels.testing.inputs import flow_inputs

REFERENCES = {
    "planar_flow": reference.planar_flow,
    "planar_flow_backward": reference.planar_flow_backward,
    "planar_flow_inverse": inverse_reference.planar_flow_inverse,
    "planar_flow_inverse_backward": inverse_reference.planar_flow_inverse_backward,
}


NUMBER = {False: 0, True: 1, "smooth": 2}


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


MODES: tuple[Any, ...] = (True, "smooth", False)


KERNEL = torch.ops.ordkernels


native = pytest.mark.native


OPS = {"planar_flow": planar_flow, "planar_flow_inverse": planar_flow_inverse, "conditional_planar_flow": conditional_planar_flow}


def inputs_of(op: str, B: int = 3, K: int = 2, D: int = 4, dtype: torch.dtype = torch.float64, H: int = 5) -> list[Tensor]:
    """Leaves that require gradients."""
    z, u, w, b = flow_inputs(B, K, D, dtype=dtype)
    args = [z, u, w, b]
    if op == "conditional_planar_flow":
        C = K * (2 * D + 1)
        args = [z, *(torch.randn(*s, dtype=torch.float64).to(dtype) / s[-1] ** 0.5 for s in ((B, H), (C, H), (C,)))]
    return [t.clone().requires_grad_() for t in args]


def loss(op: Callable[..., Any], *args: Tensor, **kwargs: Any) -> Tensor:
    z, log_det = op(*args, **kwargs)
    return (z.double() * torch.linspace(-1, 2, z.numel(), dtype=torch.float64, device=z.device).view(z.shape)).sum() + (
        log_det.double() ** 2
    ).sum()


def gradients(op: Callable[..., Any], args: list[Tensor], **kwargs: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(op, *args, **kwargs), args)


def eager_and_truth(f: Callable[..., Any], args: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Plain torch in the dtype of the arguments, and in fp64. For fp64 arguments plain torch's error is estimated from fp32's."""
    truth = f(*(t.double() for t in args))
    if args[0].dtype != torch.float64:
        return f(*args), truth
    scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return [t + (e.double() - t) * scale for e, t in zip(f(*(t.float() for t in args)), truth, strict=True)], truth


def compare(
    B: int, K: int, D: int, N: int | None, shared: bool, dtype: torch.dtype, kind: str, mode: int, view: Callable[[Tensor], Tensor]
) -> None:
    z, u, w, b = (view(t) for t in flow_inputs(B, K, D, N, shared=shared, dtype=dtype, kind=kind))
    gz, gl = view(torch.randn(z.shape).to(dtype)), torch.randn(z.shape[:-1], dtype=compute_dtype(z))
    size = max([t.abs().max().item() for t in (u, w, z) if t.numel()], default=1.0)
    if kind in ("low", "high"):
        size = size * 30  # w.u is a sum of large terms
    for name, ulps in (("planar_flow", 16), ("planar_flow_inverse", 64)):
        if name == "planar_flow_inverse" and (mode == 0 or kind not in ("normal", "dead")):
            continue
        eager, truth = eager_and_truth(lambda *a: REFERENCES[name](*a, mode), [z, u, w, b])  # noqa: B023
        got = getattr(KERNEL, f"_{name}")(z, u, w, b, mode)
        assert_within_budget(got, eager, truth, ulps=ulps, scale=size)
        saved = [z if name == "planar_flow" else truth[0].to(dtype), truth[2].to(gl.dtype), u, w, gz, gl]
        eager, truth = eager_and_truth(lambda *a: REFERENCES[f"{name}_backward"](*a, mode), saved)  # noqa: B023
        assert_within_budget(getattr(KERNEL, f"_{name}_backward")(*saved, mode), eager, truth, ulps=32, scale=size)


def same(t: Tensor) -> Tensor:
    return t
