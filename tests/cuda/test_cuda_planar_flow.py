"""planar_flow in CUDA C++: against fp64 truth, in several orders of threads; hostile rows; what it does not take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _planar_flow import FLOATS, REFERENCES, eager_and_truth
from emulated import DEVICE, EMULATED, assert_same_bits_in_every_order, kernel, marks, on_cuda
from torch import Tensor

import ordkernels
from ordkernels.ops import planar_flow
from ordkernels.reference._common import compute_dtype
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import flow_inputs, strided

pytestmark = marks("planar_flow")


def compare(
    B: int, K: int, D: int, dtype: torch.dtype, kind: str = "normal", mode: int = 1, view: Callable[[Tensor], Tensor] = lambda t: t
) -> None:
    z, u, w, b = (view(t) for t in flow_inputs(B, K, D, dtype=dtype, kind=kind))
    gz, gl = view(torch.randn(B, D).to(dtype)), torch.randn(B, dtype=compute_dtype(z))
    size = max([t.abs().max().item() for t in (u, w, z) if t.numel()], default=1.0) * (30 if kind in ("low", "high") else 1)
    eager, truth = eager_and_truth(lambda *a: REFERENCES["planar_flow"](*a, mode), [z, u, w, b])
    assert_within_budget(kernel("planar_flow", z, u, w, b, mode), eager, truth, ulps=16, scale=size)
    saved = [z, truth[2].to(gl.dtype), u, w, gz, gl]
    eager, truth = eager_and_truth(lambda *a: REFERENCES["planar_flow_backward"](*a, mode), saved)
    assert_within_budget(kernel("planar_flow_backward", *saved, mode), eager, truth, ulps=32, scale=size)


@pytest.mark.parametrize(
    ("B", "K", "D"),
    [(1, 1, 1), (5, 4, 7), (9, 3, 32), (6, 2, 33), (5, 40, 64), (6, 2, 66), (7, 3, 100), (3, 2, 130), (4, 4, 256), (2, 2, 512)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_budget(order: int, B: int, K: int, D: int, dtype: torch.dtype) -> None:
    compare(B, K, D, dtype, mode=order % 3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("B", [0, 1, 127, 128, 129])
def test_rows(B: int, dtype: torch.dtype) -> None:
    compare(B, 3, 9, dtype, mode=2)


@pytest.mark.parametrize("kind", ["dead", "low", "high", "saturated"])
@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hostile(kind: str, mode: int, dtype: torch.dtype) -> None:
    compare(20, 2, 33, dtype, kind, mode)
    if kind in ("dead", "saturated"):
        compare(20, 35, 4, dtype, kind, mode)  # more layers than lanes


@pytest.mark.parametrize("dtype", FLOATS)
def test_strided(dtype: torch.dtype) -> None:
    compare(9, 3, 20, dtype, view=strided)


@pytest.mark.parametrize("exponent", [-80, -40, 40, 63])
def test_magnitudes(exponent: int) -> None:
    """w is scaled by a power of 2 where |w|^2 leaves the range of fp32."""
    z, u, w, b = flow_inputs(6, 2, 40)
    w = w * 2.0**exponent
    z, u = z * 2.0 ** min(0, -exponent), u * 2.0 ** min(0, -exponent)
    eager, truth = eager_and_truth(lambda *a: REFERENCES["planar_flow"](*a, 1), [z, u, w, b])
    assert_within_budget(kernel("planar_flow", z, u, w, b, 1), eager, truth, ulps=16)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("which", range(4))
def test_non_finite(mode: int, value: float, which: int) -> None:
    """Where the definition is NaN or infinite the kernel is, and nowhere else: other rows' bits stay."""
    args = [*flow_inputs(4, 2, 40)]
    clean = kernel("planar_flow", *args, mode)
    args[which] = args[which].clone()
    args[which][1].view(-1)[1] = value
    expected, got = REFERENCES["planar_flow"](*args, mode), kernel("planar_flow", *args, mode)
    for e, g, c in zip(expected, got, clean, strict=True):
        assert torch.equal(e.isfinite(), g.isfinite())
        assert same_bits([g[[0, 2, 3]]], [c[[0, 2, 3]]])


def test_parameters_are_views_of_a_hypernetwork() -> None:
    D, K = 12, 3
    p = torch.randn(10, K, 2 * D + 4)
    z, u, w, b = torch.randn(10, D), p[..., :D], p[..., D : 2 * D], p[..., 2 * D]
    assert same_bits(kernel("planar_flow", z, u, w, b, 1), kernel("planar_flow", z, u.contiguous(), w.contiguous(), b.contiguous(), 1))


def test_rows_farther_apart_than_32_bits_count(tmp_path: Path) -> None:
    """In a sparse file: a row of u begins 2^31 numbers after the one before."""
    K, D, stride = 2, 3, 2**31
    memory = torch.from_numpy(np.memmap(tmp_path / "sparse", np.float32, "w+", shape=(stride + K * D,)))
    z, u, w, b = flow_inputs(2, K, D)
    far = memory.as_strided((2, K, D), (stride, D, 1))
    far.copy_(u)
    assert same_bits(kernel("planar_flow", z, far, w, b, 1), kernel("planar_flow", z, u, w, b, 1))


def test_rows_that_start_between_two_vectors() -> None:
    z, u, w, b = flow_inputs(4, 2, 64)
    shifted = torch.cat((torch.zeros(1), z.flatten()))[1:].view(4, 64)
    eager, truth = eager_and_truth(lambda *a: REFERENCES["planar_flow"](*a, 1), [z, u, w, b])
    assert_within_budget(kernel("planar_flow", shifted, u, w, b, 1), eager, truth, ulps=16)


def test_every_order_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    z, u, w, b = flow_inputs(6, 3, 64)
    out = kernel("planar_flow", z, u, w, b, 1)
    assert_same_bits_in_every_order(lambda: kernel("planar_flow", z, u, w, b, 1), monkeypatch)
    saved = (z, out[2], u, w, torch.randn_like(z), torch.randn(6))
    assert_same_bits_in_every_order(lambda: kernel("planar_flow_backward", *saved, 1), monkeypatch)


def test_gradients_by_use_backend() -> None:
    args = [t.requires_grad_() for t in flow_inputs(5, 2, 6)]

    def gradients(backend: str) -> tuple[Tensor, ...]:
        device = DEVICE if backend == "cuda" else "cpu"
        with ordkernels.use_backend(backend):
            z, log_det = planar_flow(*(t.to(device) for t in args))
        return torch.autograd.grad(z.square().sum() + log_det.sum(), args)

    torch.testing.assert_close(gradients("cuda"), gradients("reference"))


def test_what_it_does_not_take_raises() -> None:
    z, u, w, b = flow_inputs(4, 2, 6, shared=True)
    with pytest.raises(RuntimeError, match=r"planar_flow cannot run on the backend 'cuda': expected parameters per row"):
        on_cuda(planar_flow, z, u, w, b)
    with pytest.raises(RuntimeError, match="expected D up to 512, got 513"):
        on_cuda(planar_flow, *flow_inputs(1, 1, 513))
    z, u, w, b = (t.requires_grad_() for t in flow_inputs(1, 200, 300))
    with ordkernels.use_backend("cuda"):
        out = planar_flow(*(t.to(DEVICE) for t in (z, u, w, b)))
    with pytest.raises(RuntimeError, match="expected the states of K = 200 layers to fit"):
        out[0].sum().backward()


@pytest.mark.skipif(not EMULATED, reason="on a GPU the key CUDA takes compiled calls")
def test_the_emulation_takes_plain_calls_alone() -> None:
    def call(*args: Any) -> Any:
        return planar_flow(*args)

    args = flow_inputs(2, 1, 3)
    with ordkernels.use_backend("cuda"):
        with pytest.raises(RuntimeError, match="serves plain calls"):
            torch.compile(call, backend="eager", fullgraph=True)(*args)
        with pytest.raises(RuntimeError, match="serves plain calls"):
            torch.func.vmap(call)(*(t[:, None] for t in args))
