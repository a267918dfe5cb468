"""Planar flows of predicted parameters: against the composition. (All flows: test_planar_flow.py.)"""

import pytest
import torch
from _planar_flow import FLOATS, KERNEL, eager_and_truth, inputs_of, native

from ordkernels.ops import conditional_planar_flow
from ordkernels.reference import conditional_planar_flow as conditional_reference
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import strided


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("B", "N", "K", "D", "H"),
    [(1, None, 1, 1, 1), (0, None, 2, 3, 4), (700, None, 4, 33, 16), (40, 3, 2, 7, 5), (3, 400, 2, 9, 6), (3, 0, 2, 3, 4)],
)
@native
def test_conditional(dtype: torch.dtype, B: int, N: int | None, K: int, D: int, H: int) -> None:
    z, C = torch.randn((B, D) if N is None else (B, N, D)).to(dtype), K * (2 * D + 1)
    h, weight, bias = torch.randn(B, H).to(dtype), (torch.randn(C, H) / (D * H) ** 0.5).to(dtype), (torch.randn(C) / D**0.5).to(dtype)
    eager, truth = eager_and_truth(lambda *a: conditional_reference.conditional_planar_flow(*a, 1), [z, h, weight, bias])
    assert_within_budget(KERNEL._conditional_planar_flow(z, h, weight, bias, 1), eager, truth, ulps=16, scale=4)
    gl = torch.randn(z.shape[:-1], dtype=eager[1].dtype)
    saved = [z, truth[2].to(gl.dtype), h, weight, bias, torch.randn(z.shape).to(dtype), gl]
    eager, truth = eager_and_truth(lambda *a: conditional_reference.conditional_planar_flow_backward(*a, 1), saved)
    assert_within_budget(KERNEL._conditional_planar_flow_backward(*saved, 1), eager, truth, ulps=32, scale=4)


@native
def test_conditional_inside_modes() -> None:
    """Its matrix products go through the dispatcher from C++: no mode may change or refuse them."""
    args = inputs_of("conditional_planar_flow", dtype=torch.float32)
    want = conditional_planar_flow(*(t.detach() for t in args))
    assert same_bits(KERNEL._conditional_planar_flow(*args, 1)[:2], want)  # grad mode on, inputs that require gradients
    with torch.inference_mode():
        assert same_bits(conditional_planar_flow(*args), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(conditional_planar_flow(*args), want)
    noncontiguous = [strided(t.detach()) for t in args]
    assert same_bits(conditional_planar_flow(*noncontiguous), want)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(z=torch.zeros(2)), ValueError, r"z: expected \[B, D\] or \[B, N, D\], got 1 dim"),
        (dict(h=torch.zeros(2, 5, 1)), ValueError, r"h: expected \[B, H\], got 3 dim"),
        (dict(h=torch.zeros(3, 5)), ValueError, r"h: expected \[B, H\] = \[2, 5\], got \[3, 5\]"),
        (dict(h=torch.zeros(2, 5).double()), TypeError, "h: expected the dtype of z"),
        (dict(weight=torch.zeros(18)), ValueError, r"weight: expected \[K \(2D \+ 1\), H\], got 1 dim"),
        (dict(weight=torch.zeros(17, 5)), ValueError, "weight: expected a positive multiple of 2D . 1 = 9 rows"),
        (dict(weight=torch.zeros(0, 5)), ValueError, "weight: expected a positive multiple of 2D . 1 = 9 rows"),
        (dict(weight=torch.zeros(18, 4)), ValueError, r"weight: .* = \[18, 5\], got \[18, 4\]"),
        (dict(bias=torch.zeros(9)), ValueError, r"bias: .* = \[18\], got \[9\]"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], text: str) -> None:
    arguments = dict(z=torch.zeros(2, 4), h=torch.zeros(2, 5), weight=torch.zeros(18, 5), bias=torch.zeros(18))
    with pytest.raises(error, match=text):
        conditional_planar_flow(**(arguments | change))
