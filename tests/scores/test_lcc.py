"""Pearson's correlation against scipy; compiled against the reference."""

import math

import numpy as np
import pytest
from score_checks import SIZES, check_compiled

from ordkernels import ops


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_lcc(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    stats = pytest.importorskip("scipy.stats")
    assert ops.lcc(y, p) == pytest.approx(stats.pearsonr(y, p).statistic)
    assert math.isnan(ops.lcc(y, np.ones(50)))


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_sums_are_the_references(dtype, rng):
    for n in SIZES:
        check_compiled(ops.lcc, *(rng.normal(3, 5, n).astype(dtype) for _ in range(2)))


@pytest.mark.native
def test_constant_columns_have_no_correlation(rng):
    assert math.isnan(ops.lcc(np.full(5000, 0.1), rng.random(5000)))
    y = 1e9 + rng.random(10_000)
    assert ops.lcc(y, 3 * (y - 1e9) - 5) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.lcc([1.0, 2.0], [1.0, -float("inf")]), ValueError, "prediction: expected finite numbers, got -inf at index 1"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
