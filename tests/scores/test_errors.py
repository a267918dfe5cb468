"""Errors and correlation of point predictions against NumPy and scipy; compiled against the reference."""

import math

import numpy as np
import pytest
import torch
from score_checks import check_compiled

from ordkernels import ops

NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_errors_and_correlations(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    assert ops.mae(y, p) == pytest.approx(np.mean(np.abs(y - p)))
    assert ops.rmse(y, p) == pytest.approx(np.mean((y - p) ** 2) ** 0.5)
    assert ops.cumulative_score(y, p, 2.0) == pytest.approx(np.mean(np.abs(y - p) <= 2))
    stats = pytest.importorskip("scipy.stats")
    assert ops.lcc(y, p) == pytest.approx(stats.pearsonr(y, p).statistic)
    assert math.isnan(ops.lcc(y, np.ones(50)))


@pytest.mark.parametrize("like", [list, np.asarray, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)])
def test_takes_lists_arrays_and_tensors(like):
    assert ops.mae(like([1.0, 4.0]), like([2.0, 1.0])) == 2.0
    assert ops.xauc(like([1.0, 4.0]), like([2.0, 1.0])).value == 0.0
    assert ops.crps(like([[0.0, 2.0], [1.0, 1.0]]), like([1.0, 3.0])).tolist() == [0.5, 2.0]


SIZES = (1, 7, 8, 9, 1023, 1025, 70_000)


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_sums_are_the_references(dtype, rng):
    for n in SIZES:
        y, p = (rng.normal(3, 5, n).astype(dtype) for _ in range(2))
        for score in (ops.mae, ops.rmse, ops.lcc):
            check_compiled(score, y, p)
        check_compiled(ops.cumulative_score, y, p, 2.0)


@pytest.mark.native
def test_constant_columns_have_no_correlation(rng):
    assert math.isnan(ops.lcc(np.full(5000, 0.1), rng.random(5000)))
    y = 1e9 + rng.random(10_000)
    assert ops.lcc(y, 3 * (y - 1e9) - 5) == pytest.approx(1, abs=1e-12)


def test_mae_by_interval(rng):
    y, p = rng.exponential(size=400), rng.exponential(size=400)
    y[:4] = [0.5, 1.0, 2.0, 9.0]
    edges = [0.5, 1.0, 2.0, 4.0]
    found = ops.mae_by_interval(torch.tensor(y), p, edges)
    inside = [y < 1, (y >= 1) & (y < 2), y >= 2]
    assert found.rows.tolist() == [m.sum() for m in inside]
    np.testing.assert_allclose(found.mae, [np.abs(y - p)[m].mean() for m in inside], rtol=1e-12)
    assert (found.mae * found.rows).sum() / 400 == pytest.approx(ops.mae(y, p), rel=1e-12)
    assert math.isnan(ops.mae_by_interval([1.0], [1.0], [0, 5, 6]).mae[1])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.mae([], []), ValueError, "y: expected at least one row, got none"),
        (lambda: ops.mae([1.0], [1.0, 2.0]), ValueError, r"prediction: expected shape \[N\] = \[1\], as y, got \[2\]"),
        (lambda: ops.mae([[1.0]], [1.0]), ValueError, r"y: expected shape \[N\], got \[1, 1\]"),
        (lambda: ops.rmse([1, 2.0, 3], [1, NAN, NAN]), ValueError, "prediction: expected no NaN, got 2 of 3, the first at index 1"),
        (lambda: ops.mae(["a"], [1.0]), TypeError, "y: expected integers or floats of 16 to 64 bits, got <U1"),
        (lambda: ops.mae([1.0, float("inf")], [1.0, 2.0]), ValueError, "y: expected finite numbers, got inf at index 1, and 1 of 2"),
        (lambda: ops.lcc([1.0, 2.0], [1.0, -float("inf")]), ValueError, "prediction: expected finite numbers, got -inf at index 1"),
        (lambda: ops.mae([1.0], [1.0], num_threads=0), ValueError, "num_threads: expected at least 1, got 0"),
        (lambda: ops.cumulative_score([1], [1], -1), ValueError, "theta: expected a number of at least 0, got -1"),
        (lambda: ops.cumulative_score([1], [1], None), TypeError, "theta: expected a number, got NoneType"),
        (lambda: ops.mae(torch.ones(2, device="meta"), [1.0, 2.0]), TypeError, "y: expected a tensor with values, got a tensor on meta"),
        (lambda: ops.mae_by_interval([], [], [0, 1]), ValueError, "y: expected at least one row"),
        (lambda: ops.mae_by_interval([1.0], [NAN], [0, 1]), ValueError, "prediction: expected no NaN"),
        (lambda: ops.mae_by_interval([1.0], [1.0], [1, 1]), ValueError, "edges: expected strictly ascending"),
        (lambda: ops.mae_by_interval([1.0], [1.0], [1]), ValueError, "edges: expected at least 2"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
