"""What lifetime values are reported by: the normalized Gini coefficient and the table of deciles."""

import math
from fractions import Fraction

import numpy as np
import pytest

from ordkernels import ops


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def gini_by_orders(y, p):
    """From the share of y that the highest predictions hold, the mean over both orders of tied rows: theirs and the reverse."""

    def gini(prediction):
        found = Fraction(0)
        for step in (1, -1):
            rows = sorted(range(len(y))[::step], key=lambda i: -prediction[i])
            labels = [Fraction(float(y[i])) for i in rows]
            held = sum(sum(labels[: k + 1]) for k in range(len(labels)))
            found += held / sum(labels) - Fraction(len(labels) + 1, 2)
        return found

    return float(gini(p) / gini(y))


@pytest.mark.parametrize("scale", [1, 1e300, 1e-310, 1e17])
def test_normalized_gini_is_the_area_between_lorenz_curves(scale, rng):
    for _ in range(20):
        n = int(rng.integers(2, 40))
        y, p = rng.integers(0, 9, n) * scale, rng.integers(0, 6, n)
        if len(set(y)) == 1:
            continue
        assert ops.normalized_gini(y, p) == pytest.approx(gini_by_orders(y, p), abs=1e-12)


def test_normalized_gini_of_known_orders(rng):
    y = rng.lognormal(3, 2, 1000)
    assert ops.normalized_gini(y, np.log(y)) == 1
    assert ops.normalized_gini(y, -y) == -1
    assert math.isnan(ops.normalized_gini([2, 2, 2], [1, 2, 3]))
    assert ops.normalized_gini([1e308, -1e308, 0.0], [3, 1, 2]) == 1
    assert ops.normalized_gini([2**60, 2**60 + 1, 2**60 + 2], [1, 3, 2]) == 0.5  # fp64 would round them to one value
    binary, p = rng.integers(0, 2, 500), rng.integers(0, 50, 500)
    assert ops.normalized_gini(binary, p) == pytest.approx(2 * ops.auc(binary, p) - 1, abs=1e-12)


def test_decile_table_without_ties(rng):
    n = 1000
    p = rng.permutation(n) + 0.5
    y = rng.lognormal(2, 1, n)
    table = ops.decile_table(y, p)
    for k, rows in enumerate(np.array_split(np.argsort(p), 10)):
        assert table.rows[k] == 100
        assert table.mean_prediction[k] == pytest.approx(p[rows].mean(), rel=1e-13)
        assert table.mean_y[k] == pytest.approx(y[rows].mean(), rel=1e-13)
        assert table.share_of_y[k] == pytest.approx(y[rows].sum() / y.sum(), rel=1e-13)
    assert table.mape == pytest.approx(np.mean(np.abs(table.mean_y - table.mean_prediction) / table.mean_y), rel=1e-13)


def test_equal_predictions_share_a_bin(rng):
    p = np.array([0, 0, 0, 0, 0, 1, 2, 2, 3, 4])
    y = np.arange(10.0)
    for order in (np.arange(10), rng.permutation(10)):
        table = ops.decile_table(y[order], p[order], bins=5)
        assert table.rows.tolist() == [0, 0, 6, 2, 2]  # bins begin at 0, 0, 0, 2 and 3
        assert np.isnan(table.mean_y[:2]).all()
        assert table.mean_y[2:].tolist() == [2.5, 6.5, 8.5]
        assert table.mape == pytest.approx((abs(2.5 - 1 / 6) / 2.5 + 4.5 / 6.5 + 5 / 8.5) / 3)
    assert ops.decile_table([1e308, 1e308], [1e308, 1e308], bins=1).mean_y == [1e308]  # their sum is beyond fp64
    assert ops.decile_table([0.0, 2.0], [0.0, 2.0], bins=2).mape == 0
    assert ops.decile_table([0.0, 2.0], [1.0, 2.0], bins=2).mape == math.inf


def test_error_texts():
    with pytest.raises(ValueError, match="bins: expected a whole number of at least 1, got 0"):
        ops.decile_table([1.0], [1.0], bins=0)
    with pytest.raises(ValueError, match="y: expected finite numbers, got inf"):
        ops.normalized_gini([1, math.inf], [1, 2])
