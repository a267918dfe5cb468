"""The cumulative score against NumPy; compiled against the reference."""

import numpy as np
import pytest
from score_checks import SIZES, check_compiled

from ordkernels import ops


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_cumulative_score(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    assert ops.cumulative_score(y, p, 2.0) == pytest.approx(np.mean(np.abs(y - p) <= 2))


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_sums_are_the_references(dtype, rng):
    for n in SIZES:
        check_compiled(ops.cumulative_score, *(rng.normal(3, 5, n).astype(dtype) for _ in range(2)), 2.0)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.cumulative_score([1], [1], -1), ValueError, "theta: expected a number of at least 0, got -1"),
        (lambda: ops.cumulative_score([1], [1], None), TypeError, "theta: expected a number, got NoneType"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
