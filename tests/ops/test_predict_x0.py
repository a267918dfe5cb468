"""Estimates of x0: levels of any kind, registration, bad input."""

import math
from typing import Any

import pytest
import torch
from _diffusion import FLOATS, KERNEL, X, levels, native, pair

import ordkernels
from ordkernels.ops import predict_x0
from ordkernels.schedules import NoiseSchedule


@native
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_of_any_dtype_and_place(dtype: torch.dtype) -> None:
    x, out = pair(4, 10, dtype=torch.float32)
    t = torch.full((4,), 0.25, dtype=dtype)  # exact in all of them
    number = predict_x0(x, out, 0.25)
    for level in (t, t[0], t[:1], torch.tensor(0.25, dtype=dtype)):
        assert torch.equal(predict_x0(x, out, level), number)
    leaf, wide, zero = (a.clone().requires_grad_() for a in (t, t.float(), t[0].float()))
    g, g_wide, g_zero = (torch.autograd.grad(predict_x0(x, out, a).sum(), a)[0] for a in (leaf, wide, zero))
    assert g.dtype == dtype
    torch.testing.assert_close(g.float(), g_wide, rtol=1e-2, atol=0)
    torch.testing.assert_close(g_zero, g_wide.sum())


@native
def test_levels_near_one_keep_their_digits() -> None:
    exact = NoiseSchedule.linear(1000).exact[1]
    x, out = torch.zeros(1, 4), torch.ones(1, 4)
    assert predict_x0(x, out, exact)[0, 0].item() == pytest.approx(-math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-6)
    assert predict_x0(x, out, torch.tensor([exact], dtype=torch.float64))[0, 0].item() == pytest.approx(
        -math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-6
    )


@pytest.mark.registration
@native
def test_opcheck() -> None:
    x, out = (torch.randn(3, 2, 4).requires_grad_() for _ in range(2))
    t = levels(3, 2, dtype=torch.float32)[0].requires_grad_()
    for kind in (0, 1, 2, 3):
        torch.library.opcheck(KERNEL.predict_x0.default, (x, out, t, 0.0, kind, 1.0))
        torch.library.opcheck(KERNEL.predict_x0_backward.default, (x.detach(), out.detach(), None, out.detach(), 0.3, kind, 1.0, 7))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: predict_x0(X, torch.zeros(2, 4), 0.3), ValueError, r"output: expected the shape of x_t, \[2, 3\], got \[2, 4\]"),
        (lambda: predict_x0(X, X, 0.0), ValueError, r"alpha_bar: expected values in \(0, 1\], got 0.0"),
        (lambda: predict_x0(X, X, 0.3, prediction="mu"), ValueError, "prediction: expected 'eps', 'x0' or 'v', got 'mu'"),
        (lambda: predict_x0(X, X, 0.3, clip=-1), ValueError, "clip: expected a positive number or None, got -1"),
        (lambda: predict_x0(X, X, 0.3, clip="1"), TypeError, "clip: expected a number or None, got str"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["predict_x0"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
