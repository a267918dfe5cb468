"""The mean absolute error against NumPy; compiled against the reference."""

import numpy as np
import pytest
import torch
from score_checks import SIZES, check_compiled

from ordkernels import ops

NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_mae(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    assert ops.mae(y, p) == pytest.approx(np.mean(np.abs(y - p)))


@pytest.mark.parametrize("like", [list, np.asarray, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)])
def test_takes_lists_arrays_and_tensors(like):
    assert ops.mae(like([1.0, 4.0]), like([2.0, 1.0])) == 2.0
    assert ops.xauc(like([1.0, 4.0]), like([2.0, 1.0])).value == 0.0
    assert ops.crps(like([[0.0, 2.0], [1.0, 1.0]]), like([1.0, 3.0])).tolist() == [0.5, 2.0]


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_sums_are_the_references(dtype, rng):
    for n in SIZES:
        check_compiled(ops.mae, *(rng.normal(3, 5, n).astype(dtype) for _ in range(2)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.mae([], []), ValueError, "y: expected at least one row, got none"),
        (lambda: ops.mae([1.0], [1.0, 2.0]), ValueError, r"prediction: expected shape \[N\] = \[1\], as y, got \[2\]"),
        (lambda: ops.mae([[1.0]], [1.0]), ValueError, r"y: expected shape \[N\], got \[1, 1\]"),
        (lambda: ops.mae(["a"], [1.0]), TypeError, "y: expected integers or floats of 16 to 64 bits, got <U1"),
        (lambda: ops.mae([1.0, float("inf")], [1.0, 2.0]), ValueError, "y: expected finite numbers, got inf at index 1, and 1 of 2"),
        (lambda: ops.mae([1.0], [1.0], num_threads=0), ValueError, "num_threads: expected at least 1, got 0"),
        (lambda: ops.mae(torch.ones(2, device="meta"), [1.0, 2.0]), TypeError, "y: expected a tensor with values, got a tensor on meta"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
