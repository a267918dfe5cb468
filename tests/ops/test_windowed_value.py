"""The expected value in a window: gradients, bad input."""

from typing import Any

import pytest
import torch
from _tokens import KERNEL, TABLE, X, inputs, native
from torch.autograd import forward_ad

import ordkernels
from ordkernels.ops import windowed_value


@native
def test_gradients_that_are_not_asked_for_are_empty() -> None:
    x, _, v = inputs(6, 9, 4)
    for mask, empty in ((1, 1), (2, 0)):
        grads = KERNEL._windowed_value_backward(x, v, torch.ones(6), 4, mask)
        assert grads[empty].numel() == 0


@native
@pytest.mark.parametrize("window", [4, 0, None])
def test_gradcheck(window: int | None) -> None:
    x, _, v = (t.requires_grad_() for t in inputs(6, 12, 5, torch.float64))
    with torch.no_grad():
        x += torch.rand_like(x) * 0.1  # no ties: there the argmax changes
    assert torch.autograd.gradcheck(lambda x, t: windowed_value(x, t, window=window), (x, v))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    x, _, v = inputs(5, 9, 4)
    for window in (4, -1):
        torch.library.opcheck(KERNEL.windowed_value.default, (x.clone().requires_grad_(), v.clone().requires_grad_(), window))
        torch.library.opcheck(KERNEL._windowed_value.default, (x, v, window))
        for mask in (1, 2, 3):
            torch.library.opcheck(KERNEL.windowed_value_backward.default, (x, v, torch.rand(5), window, mask))


@native
def test_second_derivatives_and_forward_mode_raise() -> None:
    x, _, v = inputs(3, 9, 4)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(windowed_value(leaf, v, window=4).pow(2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice"):
        torch.autograd.grad(g.sum(), leaf)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        forward_ad.unpack_dual(windowed_value(forward_ad.make_dual(x, torch.ones_like(x)), v, window=4))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: windowed_value(X, torch.ones(4), window=2), ValueError, r"values: expected \[V\] with V = 5 as logits, got \[4\]"),
        (lambda: windowed_value(X, TABLE, window=2), ValueError, r"values: expected \[V\], got 2 dimensions"),
        (lambda: windowed_value(X, torch.ones(5).int(), window=2), TypeError, "values: expected float32"),
        (lambda: windowed_value(X, torch.ones(5, device="meta"), window=2), ValueError, "values: expected the device of logits"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["windowed_value"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
