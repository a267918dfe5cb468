"""Interval coverage by hand; compiled against the reference."""

import numpy as np
import pytest
from score_checks import check_compiled

from ordkernels import ops


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_coverage_by_hand():
    assert ops.coverage([0, 1, 2], [2, 2, 2], [2, 3, 2]) == (2 / 3, 1.0)


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_sums_are_the_references(dtype, rng):
    for n in (1, 7, 8, 9, 1023, 1025, 70_000):
        y, p = (rng.normal(3, 5, n).astype(dtype) for _ in range(2))
        check_compiled(ops.coverage, np.minimum(y, p), np.maximum(y, p), y + p)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.coverage([0, float("-inf")], [1, 1], [0, 0]), ValueError, "lower: expected finite numbers, got -inf at index 1"),
        (lambda: ops.coverage([0], [1], [0, 0]), ValueError, r"y: expected shape \[N\] = \[1\], as lower, got \[2\]"),
        (lambda: ops.coverage([0, 3], [1, 1], [0, 0]), ValueError, "lower: expected at most upper, got 3 above 1 at index 1"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
