"""Noising of flow matching: against its formula, gradients, bad input."""

from typing import Any

import pytest
import torch
from _diffusion import X, levels, native, pair

import ordkernels
from ordkernels.ops import flow_sample
from ordkernels.reference import flow_sample as reference


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_noising_is_the_published_one(backend: str | None) -> None:
    x0, (noise, _) = torch.randn(4, 5, dtype=torch.float64), pair(4, 3, 5)
    t, _ = levels(4, 3)
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        f = flow_sample(x0, noise, t)
    c = t[..., None]
    torch.testing.assert_close(f, (1 - c) * x0[:, None] + c * noise)


def test_the_definition() -> None:
    x0, noise = pair(4, 5)
    torch.testing.assert_close(reference.flow_sample(x0, noise, None, 0.25), 0.75 * x0 + 0.25 * noise)
    torch.testing.assert_close(reference.flow_sample(x0, noise, None), x0)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(reference.flow_sample(x0, noise, t), (1 - t)[:, None] * x0 + t[:, None] * noise)


@native
def test_gradcheck() -> None:
    x0, (xi, v) = torch.randn(3, 4, dtype=torch.float64).requires_grad_(), pair(3, 2, 4)
    t, _ = levels(2)
    xi, v, t = (a.requires_grad_() for a in (xi, v, t))
    assert torch.autograd.gradcheck(flow_sample, (x0, xi, t))
    assert torch.autograd.gradcheck(flow_sample, (v, xi, t))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: flow_sample(X, X, -0.1), ValueError, r"t: expected values in \[0, 1\], got -0.1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["flow_sample"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
