"""Noising of diffusion: against its formula, gradients, bad input."""

from typing import Any

import pytest
import torch
from _diffusion import KERNEL, X, levels, native, pair

import ordkernels
from ordkernels.ops import q_sample


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_noising_is_the_published_one(backend: str | None) -> None:
    x0, (noise, _) = torch.randn(4, 5, dtype=torch.float64), pair(4, 3, 5)
    t, _ = levels(4, 3)
    with ordkernels.use_backend(backend) if backend else torch.enable_grad():
        q = q_sample(x0, noise, t)
    c = t[..., None]
    torch.testing.assert_close(q, c.sqrt() * x0[:, None] + (1 - c).sqrt() * noise)


@native
def test_gradcheck() -> None:
    x0, (xi, v) = torch.randn(3, 4, dtype=torch.float64).requires_grad_(), pair(3, 2, 4)
    t, _ = levels(2)
    xi, v, t = (a.requires_grad_() for a in (xi, v, t))
    assert torch.autograd.gradcheck(q_sample, (x0, xi, t))
    assert torch.autograd.gradcheck(q_sample, (v, xi, t))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    """Both kinds: 0, and 1, which flow_sample calls."""
    x0, xi, g = torch.randn(3, 4).requires_grad_(), torch.randn(3, 2, 4).requires_grad_(), torch.randn(3, 2, 4)
    t = levels(3, 2, dtype=torch.float32)[0].requires_grad_()
    for kind in (0, 1):
        torch.library.opcheck(KERNEL.q_sample.default, (x0, xi, t, 0.0, kind))
        for mask in (7, 1, 2):
            torch.library.opcheck(KERNEL.q_sample_backward.default, (x0.detach(), xi.detach(), t.detach(), g, 0.0, kind, mask))
        torch.library.opcheck(KERNEL.q_sample_backward.default, (x0.detach(), xi.detach(), None, None, 0.5, kind, 3))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: q_sample(X, torch.zeros(2, 5, 1, 3), 0.5), ValueError, r"noise: expected \[B, D\] or \[B, K, D\], got 4 dim"),
        (lambda: q_sample(X, torch.zeros(2, 5, 4), 0.5), ValueError, r"noise: expected \[B, D\] or \[B, K, D\] with B = 2, D = 3, got \[2, 5, 4\]"),  # noqa: E501
        (lambda: q_sample(X, X, 1.01), ValueError, r"alpha_bar: expected values in \(0, 1\], got 1.01"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["q_sample"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
