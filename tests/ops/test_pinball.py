"""The pinball loss: against its definition, registration, bad input."""

import pytest
import torch
from _scores import BACKENDS, DEVICE, DTYPES, LEVELS, make, native, with_gradients

import ordkernels
from ordkernels import ops
from ordkernels.ops.pinball import _OP


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("B", "L"), [(0, 3), (1, 1), (9, 2), (5, 20), (7, 129)])
def test_pinball_is_its_definition(backend, dtype, B, L):
    q, y = make(B, L, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    level = LEVELS[L].to(wide)

    def definition(q, y):
        d = y[:, None] - q
        return torch.maximum(level.to(d.dtype) * d, (level.to(d.dtype) - 1) * d)

    with ordkernels.use_backend(backend):
        got = with_gradients(lambda q, y: ops.pinball(q, y, level), q, y)
    exact = with_gradients(definition, q.double(), y.double())
    assert got[0].dtype == wide
    torch.testing.assert_close(got[0].double(), exact[0], rtol=4 * torch.finfo(wide).eps, atol=4 * torch.finfo(wide).eps)
    torch.testing.assert_close(got[1:], [t.to(dtype) for t in exact[1:]], rtol=1e-5 if dtype.itemsize > 2 else 0.01, atol=1e-5)


@pytest.mark.registration
@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(dtype):
    s, y = make(5, 6, dtype)
    level = LEVELS[6].to(dtype).expand(5, 6)
    k = torch.ops.ordkernels
    torch.library.opcheck(k.pinball.default, (*(t.detach().clone().requires_grad_() for t in (s, y)), level))
    for mask in (1, 2) if dtype == torch.float32 else (3,):
        torch.library.opcheck(k.pinball_backward.default, (s, y, level, s, mask))
    torch.library.opcheck(k._pinball_backward.default, (s, y, level, None, 3))


@native
@pytest.mark.skipif(DEVICE != "cpu", reason="the native kernel's own checks")
def test_the_kernel_checks_too():
    s, y = make(4, 5)
    with pytest.raises(RuntimeError, match="levels: expected float32, got float64"):
        _OP.op_without_autograd(s, y, s.double())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.pinball([[1.0]], [1.0], [2]), ValueError, r"levels: expected numbers in \[0, 1\], got 2.0 at index 0"),
        (lambda: ops.pinball([[1.0]], [1.0], [0.1, 0.2]), ValueError, r"q: expected \[B, L\] with L = 2, as levels, got \[1, 1\]"),
        (lambda: ops.pinball([[1.0]], [1.0, 2.0], [0.1]), ValueError, r"y: expected \[B\] = \[1\], got \[2\]"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_pinball_by_hand():
    assert ops.pinball([[1.0, 4.0]], [3.0], [0.25, 0.25]).tolist() == [[0.5, 0.75]]
