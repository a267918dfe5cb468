"""nested_min and encode_increments in CUDA C++: the reference's numbers on grids, budgets, NaN in its row, any B and K."""

import math
from typing import Any

import pytest
import torch
from _increments import FLOATS, results_on_grids
from emulated import DEVICE, assert_same_bits_in_every_order, kernel, marks, on_cuda

import ordkernels
from ordkernels.ops import encode_increments, nested_min
from ordkernels.reference.nested_min import nested_min as nested_reference
from ordkernels.testing.compare import assert_within_budget, same_bits

pytestmark = marks("nested_min")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("B", "K", "shared", "capacity"),
    [(5, 3, True, "rows"), (131, 8, False, 1.5), (3, 19, True, None), (4, 9, False, "rows"), (40, 150, False, 3.0), (1, 1, True, 0.0)],
)
def test_the_reference_on_grids(order: int, dtype: torch.dtype, B: int, K: int, shared: bool, capacity: Any) -> None:
    """Quarters: no rounding."""
    run = results_on_grids(dtype, B, K, shared, capacity, DEVICE)
    with ordkernels.use_backend("cuda"):
        got = run()
    with ordkernels.use_backend("reference"):
        expected = run()
    tol = 0.02 if dtype in FLOATS[2:] else 0  # 16 bits: sums rounded in another order
    for x, z in zip(got, expected, strict=True):
        torch.testing.assert_close(x, z, rtol=tol, atol=tol * B)


@pytest.mark.parametrize("B", [0, 1, 127, 128, 129])
@pytest.mark.parametrize("dtype", FLOATS)
def test_error_budget(B: int, dtype: torch.dtype) -> None:
    v, w, c = torch.randn(B, 12), torch.rand(B, 12), torch.rand(B) * 3
    args = [t.to(dtype) for t in (v, w, c)]
    expected = nested_reference(*(t.double() for t in args))
    assert_within_budget(kernel("nested_min", *args, None), nested_reference(*args), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", range(3))
def test_non_finite_stays_in_its_row(value: float, where: int) -> None:
    args = [torch.rand(4, 5), torch.rand(4, 5) + 0.5, torch.full((4,), 1.5)]
    args[where][1].view(-1)[-1] = value
    with ordkernels.use_backend("reference"):
        expected = nested_min(*args), encode_increments(args[0][:, 0].contiguous(), args[1])
    assert same_bits(on_cuda(nested_min, *args), expected[0])
    assert same_bits([on_cuda(encode_increments, args[0][:, 0].contiguous(), args[1])], [expected[1]])


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_non_finite_numbers(shared: bool) -> None:
    y, w, g = torch.tensor([0.4, 1.5, 2.0]), torch.rand(*(() if shared else (3,)), 6) + 0.2, torch.randn(3, 6)
    g[1, 2], y[2] = math.inf, math.nan

    def run() -> Any:
        args = [t.to(DEVICE).requires_grad_() for t in (y, w)]
        return torch.autograd.grad(encode_increments(*args), args, g.to(DEVICE))

    with ordkernels.use_backend("cuda"):
        got = run()
    with ordkernels.use_backend("reference"):
        expected = run()
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_every_order_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    v, w, g = torch.randn(300, 7), torch.rand(7), torch.randn(300, 7)
    assert_same_bits_in_every_order(lambda: kernel("nested_min_backward", v, w, None, None, g, 1.5, 7), monkeypatch)
    assert_same_bits_in_every_order(lambda: kernel("encode_increments_backward", v[:, 0].contiguous(), w, g, 3), monkeypatch)


def test_more_columns_than_fit_raise() -> None:
    with pytest.raises(RuntimeError, match="nested_min cannot run on the backend 'cuda': expected K up to 425, got 426"):
        on_cuda(nested_min, torch.rand(2, 426), torch.rand(426))
    with pytest.raises(RuntimeError, match="encode_increments cannot run on the backend 'cuda': expected K up to 212, got 213"):
        on_cuda(encode_increments, torch.rand(2).double(), torch.rand(213).double())
    for dtype in (torch.float32, torch.float64):
        K = 425 if dtype == torch.float32 else 212
        args = [torch.rand(33, K, dtype=dtype), torch.rand(33, K, dtype=dtype), torch.rand(33, dtype=dtype)]
        g = torch.rand(33, K, dtype=dtype)
        assert kernel("nested_min_backward", *args, args[2], g, None, 7)[0].shape == (33, K)
