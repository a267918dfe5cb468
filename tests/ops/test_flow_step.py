"""Euler steps of flow matching: against their formula, gradients, bad input."""

from typing import Any

import pytest
import torch
from _diffusion import X, levels, native, pair

import ordkernels
from ordkernels.ops import flow_step
from ordkernels.reference import flow_step as reference


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_step_is_the_published_one(backend: str | None) -> None:
    x_t, velocity = pair(4, 3, 5)
    t, s = levels(4, 3)
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        x_s, x0 = flow_step(x_t, velocity, t, s)
    torch.testing.assert_close(x_s, x_t + (s - t)[..., None] * velocity)
    torch.testing.assert_close(x0, x_t - t[..., None] * velocity)


def test_the_definition() -> None:
    x_t, velocity = pair(4, 5)
    x_s, x0 = reference.flow_step(x_t, velocity, 0.75, 0.25)
    torch.testing.assert_close(x_s, x_t - 0.5 * velocity)
    torch.testing.assert_close(x0, x_t - 0.75 * velocity)


@native
def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(flow_step, [a.requires_grad_() for a in (*pair(3, 2, 4), *levels(2))])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: flow_step(X, X, 0.5, 1.1), ValueError, r"s: expected values in \[0, 1\], got 1.1"),
        (lambda: flow_step(X, X[:1], 0.5, 0.1), ValueError, "velocity: expected the shape of x_t"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["flow_step"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
