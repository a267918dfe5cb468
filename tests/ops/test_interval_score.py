"""The interval score: against fp64 truth and the pinball loss, on the bounds, crossed bounds, through autograd, wrong calls."""

import math
import os

import pytest
import torch

import ordkernels
from ordkernels import ops

DEVICE = os.environ.get("ORDKERNELS_TEST_DEVICE", "cpu")
REASONS = "; ".join(ordkernels.available_backends("interval_score")["triton"])
BACKENDS = [
    "reference",
    pytest.param("cpu", marks=[pytest.mark.native, pytest.mark.skipif(DEVICE != "cpu", reason="native CPU kernels serve CPU tensors")]),
    pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(REASONS), reason=REASONS or "-")]),
]


def rows(B, dtype=torch.float32):
    """lower, upper, y: a third of the bounds are crossed."""
    g = torch.Generator().manual_seed(B)
    return [(torch.randn(B, generator=g) + shift).to(dtype).to(DEVICE).requires_grad_() for shift in (0.0, 0.6, 0.3)]


def definition(lower, upper, y, level):
    return upper - lower + 2 / (1 - level) * ((lower - y).relu() + (y - upper).relu())


def score_and_gradients(f, *inputs):
    out = f(*inputs)
    g = torch.linspace(1, 2, len(out), dtype=out.dtype, device=out.device)
    return [out.detach(), *torch.autograd.grad(out, inputs, g)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("B", [0, 1, 127, 128, 129])
def test_within_the_error_of_eager(backend, dtype, B):
    inputs = rows(B, dtype)
    with ordkernels.use_backend(backend):
        got = score_and_gradients(lambda *t: ops.interval_score(*t, 0.8), *inputs)
    # a label on a bound, as 16-bit ones may be: relu has no gradient there, moved by a little it has
    on_a_bound = (inputs[2] == inputs[0]) | (inputs[2] == inputs[1])
    wide = [t.detach().double().requires_grad_() for t in inputs]
    for a, b in zip(got, score_and_gradients(lambda *t: definition(*t, 0.8), *wide), strict=True):
        eps = max(torch.finfo(a.dtype).eps, torch.finfo(torch.float32).eps if dtype != torch.float64 else 0)
        assert torch.all(((a.double() - b).abs() <= 4 * eps * b.abs() + 1e-30) | on_a_bound)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inside_outside_on_a_bound_and_crossed(backend):
    lower, upper, y, score, slope_lower, slope_upper, slope_y = torch.tensor(
        [  # level 0.5: the penalty is 4 times the distance
            [1.0, 3.0, 2.0, 2.0, -1, 1, 0],  # inside
            [1.0, 3.0, 0.0, 6.0, 3, 1, -4],  # below
            [1.0, 3.0, 4.0, 6.0, -1, -3, 4],  # above
            [1.0, 3.0, 1.0, 2.0, 1, 1, -2],  # on a bound: half of each side's
            [1.0, 3.0, 3.0, 2.0, -1, -1, 2],
            [2.0, 2.0, 2.0, 0.0, 1, -1, 0],  # on both
            [3.0, 1.0, 2.0, 6.0, 3, -3, 0],  # crossed: outside of both
            [3.0, 1.0, 0.0, 10.0, 3, 1, -4],
            [3.0, 1.0, 3.0, 6.0, 1, -3, 2],
            [-math.inf, 3.0, 4.0, math.inf, -1, -3, 4],
            [1.0, math.inf, 0.0, math.inf, 3, 1, -4],
        ],
        device=DEVICE,
    ).unbind(1)
    bounds = [t.contiguous().requires_grad_() for t in (lower, upper, y)]
    with ordkernels.use_backend(backend):
        out = ops.interval_score(*bounds, 0.5)
        gradients = torch.autograd.grad(out.sum(), bounds)
    for got, expected in zip((out, *gradients), (score, slope_lower, slope_upper, slope_y), strict=True):
        assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows(backend):
    inputs = torch.stack([t.detach() for t in rows(129)], 1).requires_grad_()  # [B, 3]
    with ordkernels.use_backend(backend):
        out, g = score_and_gradients(lambda t: ops.interval_score(*t.unbind(1), 0.9), inputs)
        expected = score_and_gradients(lambda *t: ops.interval_score(*t, 0.9), *rows(129))
    torch.testing.assert_close([out, *g.unbind(1)], expected, rtol=0, atol=0)


def test_scaled_sum_of_the_pinball_losses_of_its_bounds():
    lower, upper, y = rows(64, torch.float64)
    losses = ops.pinball(torch.stack([lower, upper], 1), y, torch.tensor([0.125, 0.875], dtype=torch.float64, device=DEVICE))
    torch.testing.assert_close(ops.interval_score(lower, upper, y, 0.75), losses.sum(1) / 0.125)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend):
    inputs = rows(65)
    with torch.no_grad():
        for row, t in zip((3, 4, 5), inputs, strict=True):
            t[row] = torch.nan
    with ordkernels.use_backend(backend):
        got = score_and_gradients(lambda *t: ops.interval_score(*t, 0.3), *inputs)
    # a gradient is NaN where one of the arguments that it depends on is
    for t, nan in zip(got, ([3, 4, 5], [3, 5], [4, 5], [3, 4, 5]), strict=True):
        assert torch.isnan(t).nonzero().flatten().tolist() == nan


@pytest.mark.registration
@pytest.mark.native
def test_opcheck():
    inputs = rows(5)
    plain = [t.detach() for t in inputs]
    kernels = torch.ops.ordkernels
    torch.library.opcheck(kernels.interval_score.default, (*inputs, 0.3))
    torch.library.opcheck(kernels._interval_score.default, (*plain, 0.3))
    for grad_mask in range(1, 8):
        torch.library.opcheck(kernels.interval_score_backward.default, (*plain, plain[0], 0.3, grad_mask))


@pytest.mark.registration
def test_gradcheck_compile_and_vmap():
    inputs = rows(6, torch.float64)
    plain = [t.detach() for t in inputs]

    def score(lower, upper, y):
        return ops.interval_score(lower, upper, y, 0.7).sum()

    assert torch.autograd.gradcheck(score, inputs)
    expected = torch.autograd.grad(score(*inputs), inputs)
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), expected)
    torch.testing.assert_close(torch.func.grad(score, argnums=(0, 1, 2))(*plain), expected)
    each = torch.func.vmap(torch.func.grad(score))(*(t.view(2, 3) for t in plain))
    torch.testing.assert_close(each.flatten(), expected[0])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda t: ops.interval_score([1.0], t, t, 0.5), TypeError, "lower: expected a torch.Tensor, got list"),
        (lambda t: ops.interval_score(t, t.double(), t, 0.5), TypeError, "upper: expected the dtype of lower, torch.float32, got torch.f"),
        (lambda t: ops.interval_score(t, t, t[:2], 0.5), ValueError, r"y: expected \[B\] = \[3\], got \[2\]"),
        (lambda t: ops.interval_score(t, t, t, 1.0), ValueError, r"level: expected a number in \(0, 1\), got 1.0"),
        (lambda t: ops.interval_score(t, t, t, 80), ValueError, r"level: expected a number in \(0, 1\), got 80.0"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(3))
