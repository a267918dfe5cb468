"""crps and wasserstein_quantile_loss in CUDA C++: sorted in a thread's registers, against fp64 truth; ties, NaN, infinity."""

import math

import pytest
import torch
from emulated import DEVICE, assert_same_bits_in_every_order, kernel, marks, on_cuda
from torch import Tensor

import ordkernels
from ordkernels.ops import crps, wasserstein_quantile_loss
from ordkernels.reference.crps import crps as crps_reference
from ordkernels.reference.crps import crps_backward as crps_backward_reference
from ordkernels.reference.wasserstein_quantile_loss import wasserstein_quantile_loss as loss_reference
from ordkernels.reference.wasserstein_quantile_loss import wasserstein_quantile_loss_backward as loss_backward_reference
from ordkernels.testing.compare import assert_within_budget, same_bits

pytestmark = marks("crps")

SHAPES = [(0, 3), (1, 1), (9, 2), (65, 3), (5, 16), (35, 17), (128, 20), (3, 32), (70, 33), (2, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def loss_inputs(B: int, L: int, dtype: torch.dtype = torch.float32, ties: bool = False) -> list[Tensor]:
    s, u, v = torch.randn(B, L) * 3, torch.randn(B, L).sort().values, torch.randn(B, L).sort().values
    if ties:
        s, u, v = s.round(), u.round(), v.round()
    return [*(t.to(dtype) for t in (s, u, v)), torch.rand(B)]


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("B", "L"), SHAPES)
def test_crps(B: int, L: int, ties: bool, fair: bool) -> None:
    if fair and L == 1:
        return
    s, y = torch.randn(B, L), torch.randn(B)
    if ties:
        s, y = s.round(), y.round()
    expected, eager = crps_reference(s.double(), y.double(), fair), crps_reference(s, y, fair)
    got = kernel("crps", s, y, fair, 3)
    assert_within_budget(got, eager, expected)
    assert_within_budget(kernel("crps", s, y, fair, 0)[:1], eager[:1], expected[:1])
    g = torch.randn(B)
    for dtype in (torch.float32, torch.float64):
        saved = got[1].to(dtype), g.to(dtype)
        eager, expected = crps_backward_reference(*saved, fair), crps_backward_reference(*(t.double() for t in saved), fair)
        assert_within_budget(kernel("crps_backward", *saved, fair, 3), eager, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("B", "L"), SHAPES)
def test_wasserstein(B: int, L: int, ties: bool, dtype: torch.dtype) -> None:
    args = loss_inputs(B, L, dtype, ties)
    eager, expected = loss_reference(*args), loss_reference(*(t.double() for t in args))
    got = kernel("wasserstein_quantile_loss", *args, 15)
    assert torch.equal(got[1], eager[1])
    assert_within_budget((got[0], got[2]), (eager[0], eager[2]), (expected[0], expected[2]))
    fast = kernel("wasserstein_quantile_loss", *args, 0)
    assert same_bits((fast[0], fast[2]), (got[0], got[2]))
    assert fast[1].shape == (0, 2, L)
    saved = got[1], got[2], args[3], torch.randn(B).to(dtype)
    eager = loss_backward_reference(*saved)
    expected = loss_backward_reference(saved[0], *(t.double() for t in saved[1:]))
    assert_within_budget(kernel("wasserstein_quantile_loss_backward", *saved, 15), eager, expected)


@pytest.mark.parametrize("where", ["samples", "y"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_crps_of_non_finite_numbers(value: float, where: str) -> None:
    s, y = torch.randn(4, 5), torch.randn(4)
    (s[1] if where == "samples" else y)[1] = value
    assert_within_budget(kernel("crps", s, y, False, 3), crps_reference(s, y, False), crps_reference(s.double(), y.double(), False))


@pytest.mark.parametrize("where", range(4))
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, 3e38])
def test_wasserstein_of_non_finite_and_huge_numbers(value: float, where: int) -> None:
    args = loss_inputs(4, 5)
    args[where][1] = value
    got, eager = kernel("wasserstein_quantile_loss", *args, 15), loss_reference(*args)
    assert torch.equal(got[1], eager[1])
    torch.testing.assert_close((got[0], got[2]), (eager[0], eager[2]), equal_nan=True)


def test_zeros_of_both_signs_are_equal() -> None:
    s, zero = torch.tensor([[0.0, -0.0, 0.0, -0.0]]), torch.zeros(1, 4)
    weight = torch.tensor([0.5])
    for args in ((s, zero, zero, weight), (s, zero + 1, zero - 1, weight)):
        assert torch.equal(kernel("wasserstein_quantile_loss", *args, 15)[1], loss_reference(*args)[1])


@pytest.mark.parametrize("grad_mask", range(1, 16))
def test_gradients_that_are_not_asked_for_are_empty(grad_mask: int) -> None:
    args = loss_inputs(3, 4)
    _, signs, slope = kernel("wasserstein_quantile_loss", *args, grad_mask)
    got = kernel("wasserstein_quantile_loss_backward", signs, slope, args[3], torch.ones(3), grad_mask)
    assert [t.numel() > 0 for t in got] == [bool(grad_mask >> i & 1) for i in range(4)]
    slopes = kernel("crps", args[0], args[3], False, grad_mask)[1]
    got = kernel("crps_backward", slopes, torch.ones(3), False, grad_mask & 3)
    assert [t.numel() > 0 for t in got] == [bool(grad_mask & 1), bool(grad_mask & 2)]


def test_every_order_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    s, u, v, lam = loss_inputs(70, 20)
    assert_same_bits_in_every_order(lambda: kernel("crps", s, lam, True, 3), monkeypatch)
    assert_same_bits_in_every_order(lambda: kernel("wasserstein_quantile_loss", s, u, v, lam, 15), monkeypatch)


def test_gradients_by_use_backend() -> None:
    args = loss_inputs(5, 6)

    def gradients(backend: str) -> tuple[Tensor, ...]:
        leaves = [t.to(DEVICE if backend == "cuda" else "cpu").requires_grad_() for t in args]
        with ordkernels.use_backend(backend):
            total = crps(leaves[0], leaves[3]).sum() + wasserstein_quantile_loss(*leaves[:3], lam=leaves[3]).sum()
        return tuple(t.cpu() for t in torch.autograd.grad(total, leaves))

    torch.testing.assert_close(gradients("cuda"), gradients("reference"))


def test_what_they_do_not_take_raises() -> None:
    with pytest.raises(RuntimeError, match="crps cannot run on the backend 'cuda': expected up to 64 samples a row, got 65"):
        on_cuda(crps, torch.randn(2, 65), torch.randn(2))
    with pytest.raises(RuntimeError, match="expected up to float32, got float64"):
        on_cuda(wasserstein_quantile_loss, *(torch.randn(2, 3).double() for _ in range(3)), lam=0.5)
