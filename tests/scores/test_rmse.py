"""The root of the mean squared error against NumPy; compiled against the reference."""

import numpy as np
import pytest
from score_checks import SIZES, check_compiled

from ordkernels import ops

NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_rmse(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    assert ops.rmse(y, p) == pytest.approx(np.mean((y - p) ** 2) ** 0.5)


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_sums_are_the_references(dtype, rng):
    for n in SIZES:
        check_compiled(ops.rmse, *(rng.normal(3, 5, n).astype(dtype) for _ in range(2)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.rmse([1, 2.0, 3], [1, NAN, NAN]), ValueError, "prediction: expected no NaN, got 2 of 3, the first at index 1"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
