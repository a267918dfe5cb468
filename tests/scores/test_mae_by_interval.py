"""The mean absolute error by range of the truth against NumPy."""

import math

import numpy as np
import pytest
import torch

from ordkernels import ops

NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


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
        (lambda: ops.mae_by_interval([], [], [0, 1]), ValueError, "y: expected at least one row"),
        (lambda: ops.mae_by_interval([1.0], [NAN], [0, 1]), ValueError, "prediction: expected no NaN"),
        (lambda: ops.mae_by_interval([1.0], [1.0], [1, 1]), ValueError, "edges: expected strictly ascending"),
        (lambda: ops.mae_by_interval([1.0], [1.0], [1]), ValueError, "edges: expected at least 2"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
