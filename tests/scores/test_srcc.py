"""Spearman's rank correlation against scipy, and compiled against the reference."""

import math

import numpy as np
import pytest
from score_checks import HOSTILE, check_compiled, hostile

import ordkernels
from ordkernels import ops


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_srcc(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    stats = pytest.importorskip("scipy.stats")
    assert ops.srcc(y, p) == pytest.approx(stats.spearmanr(y, p).statistic)
    assert math.isnan(ops.srcc(rng.random(70), np.full(70, 0.1)))


@pytest.mark.native
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("n", [1, 2, 24, 33, 64, 65, 127, 128, 129, 1025, 40_000])
def test_srcc_of_hostile_rows_is_the_reference(kind, n, rng):
    y, p = hostile(kind, n, rng)
    with ordkernels.use_backend("reference"):
        expected = ops.srcc(y, p)
    assert ops.srcc(y, p) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_threads_do_not_change_a_bit(dtype, rng):
    check_compiled(ops.srcc, *(rng.normal(3, 5, 5000).astype(dtype) for _ in range(2)))
