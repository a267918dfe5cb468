"""Increments of a target: the kernels against the reference, gradients, bad input."""

import itertools
from typing import Any

import pytest
import torch
from _increments import FLOATS, KERNEL, both_backends, native
from torch import Tensor

import ordkernels
from ordkernels.ops import encode_increments


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shared", [True, False])
def test_encode_is_the_reference_on_grids(dtype: torch.dtype, shared: bool) -> None:
    for B, K in itertools.product((1, 5, 300), (1, 2, 4, 8, 11, 33)):
        y = torch.randint(-2, 4 * K, (B,)).div(4).to(dtype)
        w = torch.randint(0, 6, (K,) if shared else (B, K)).div(4).to(dtype)
        g = torch.randint(-2, 3, (B, K)).to(dtype)

        def run(y: Tensor = y, w: Tensor = w, g: Tensor = g) -> list[Tensor]:
            args = [y.clone().requires_grad_(), w.clone().requires_grad_()]
            out = encode_increments(*args)
            return [out.detach(), *torch.autograd.grad(out, args, g)]

        got, expected = both_backends(run)
        loose = dtype in FLOATS[2:]
        for x, z in zip(got, expected, strict=True):
            torch.testing.assert_close(x, z, rtol=1e-2 if loose else 0, atol=0.25 if loose and shared else 0)


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_encode_passes_the_gradient_like_clamp(backend: str | None) -> None:
    y = torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.5, 3.0, 3.5, 9.0], dtype=torch.float64).requires_grad_()
    w = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64).requires_grad_()

    def plain(y: Tensor, w: Tensor) -> Tensor:
        edges = torch.stack([torch.zeros((), dtype=w.dtype), w[0], w[0] + w[1]])
        return torch.clamp(y[:, None] - edges, torch.zeros((), dtype=w.dtype), w)

    g = torch.arange(24.0, dtype=torch.float64).view(8, 3) - 7
    expected = torch.autograd.grad(plain(y, w), (y, w), g)
    with ordkernels.use_backend(backend or "reference") if backend else torch.enable_grad():
        out = encode_increments(y, w)
        torch.testing.assert_close(out, plain(y, w), rtol=0, atol=0)
        for a, b in zip(torch.autograd.grad(out, (y, w), g), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@native
@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck(shared: bool) -> None:
    y, w = torch.rand(5).double() * 2, (torch.rand(*((4,) if shared else (5, 4))) + 0.3).double()
    assert torch.autograd.gradcheck(encode_increments, (y.requires_grad_(), w.requires_grad_()))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    y = torch.rand(5).requires_grad_()
    for w in (torch.rand(4).requires_grad_(), torch.rand(5, 4).requires_grad_()):
        torch.library.opcheck(KERNEL.encode_increments.default, (y, w))
        torch.library.opcheck(KERNEL.encode_increments_backward.default, (y.detach(), w.detach(), torch.rand(5, 4), 3))


@pytest.mark.registration
@native
@pytest.mark.parametrize("shared", [True, False])
def test_vmap(shared: bool) -> None:
    """Batches of targets, of widths, and of gradients."""
    y, w = torch.rand(3, 5, dtype=torch.float64) * 4, torch.rand(3, *((4,) if shared else (5, 4)), dtype=torch.float64)
    g = torch.rand(5, 4, dtype=torch.float64)

    def grads(y: Tensor, w: Tensor) -> Any:
        return torch.func.vjp(encode_increments, y, w)[1](g)

    for in_dims in ((0, None), (None, 0), (0, 0)):
        args = tuple(t if d == 0 else t[0] for t, d in zip((y, w), in_dims, strict=True))
        each = [tuple(t[i] if d == 0 else t for t, d in zip(args, in_dims, strict=True)) for i in range(3)]
        torch.testing.assert_close(torch.vmap(encode_increments, in_dims)(*args), torch.stack([encode_increments(*a) for a in each]))
        for found, expected in zip(torch.vmap(grads, in_dims)(*args), zip(*(grads(*a) for a in each), strict=True), strict=True):
            torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: encode_increments(torch.ones(2, 3), torch.ones(3)), ValueError, r"y: expected \[B\], got 2 dimensions"),
        (lambda: encode_increments(torch.ones(2), torch.ones(3, 3)), ValueError, r"widths: expected \[B, K\] = \[2, 3\], got \[3, 3\]"),
        (lambda: encode_increments(torch.ones(2), torch.ones(3).half()), TypeError, "widths: expected the dtype of y"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["encode_increments"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert not any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
