"""PiecewiseLinearEncoder: shares of quantile bins, which columns have them, missing values, errors."""

import numpy as np
import pytest

from ordkernels.data import PiecewiseLinearEncoder, Standardiser


def test_bins_hold_equally_many_rows_and_fill_one_after_the_other():
    x = np.random.default_rng(0).lognormal(size=(4000, 1))
    encoder = PiecewiseLinearEncoder(bins=4).fit(x)
    (edges,) = encoder.edges
    np.testing.assert_allclose(np.histogram(x, edges)[0], 1000, atol=1)
    bins = encoder.transform(x)[:, 1:]
    assert bins.shape == (4000, 4)
    assert bins.dtype == np.float32
    place = np.searchsorted(edges[1:-1], x[:, 0], side="right")
    for k in range(4):
        assert (bins[place > k, k] == 1).all()
        assert (bins[place < k, k] == -1).all()
        inside = place == k
        np.testing.assert_allclose(bins[inside, k], 2 * (x[inside, 0] - edges[k]) / (edges[k + 1] - edges[k]) - 1, atol=1e-6)


def test_the_bins_add_up_to_the_value():
    x = np.random.default_rng(1).normal(size=(500, 1))
    encoder = PiecewiseLinearEncoder(bins=5).fit(x)
    shares = (encoder.transform(x)[:, 1:].astype(np.float64) + 1) / 2
    np.testing.assert_allclose(encoder.edges[0][0] + shares @ np.diff(encoder.edges[0]), x[:, 0], atol=1e-5)


def test_columns_with_few_values_stay_alone():
    random = np.random.default_rng(2)
    x = np.stack([random.integers(0, 2, 400), random.normal(size=400), random.integers(0, 19, 400), np.full(400, 3.0)], axis=1)
    encoder = PiecewiseLinearEncoder(bins=3).fit(x)
    assert [len(e) for e in encoder.edges] == [0, 4, 0, 0]
    out = encoder.transform(x)
    assert out.shape == (400, 7)
    np.testing.assert_array_equal(out[:, :4], x.astype(np.float32))


def test_edges_that_coincide_are_one():
    x = np.concatenate([np.zeros(700), np.arange(1.0, 301)])[:, None]
    (edges,) = PiecewiseLinearEncoder(bins=4).fit(x).edges
    assert (np.diff(edges) > 0).all()
    assert len(edges) == 3
    assert np.isfinite(PiecewiseLinearEncoder(bins=4).fit_transform(x)).all()


@pytest.mark.parametrize(("rows", "bins"), [(3999, 0), (4000, 2), (13_000, 6), (100_000, 8)])
def test_bins_by_default_are_as_many_as_the_rows_bear(rows, bins):
    x = np.random.default_rng(3).normal(size=(rows, 2))
    assert PiecewiseLinearEncoder().fit_transform(x).shape == (rows, 2 + 2 * bins)


def test_values_beyond_the_fitted_rows_are_its_ends_and_missing_ones_the_middle():
    encoder = PiecewiseLinearEncoder(bins=2).fit(np.append(np.arange(40.0), np.nan)[:, None])
    out = encoder.transform([[-9.0], [99.0], [np.nan]])
    np.testing.assert_array_equal(out[:, 1:], [[-1, -1], [1, 1], [0, 0]])
    assert np.isnan(out[2, 0])


def test_after_the_standardiser():
    x = np.random.default_rng(4).normal(5, 3, (200, 1))
    x[3] = np.nan
    out = PiecewiseLinearEncoder(bins=2).fit_transform(Standardiser().fit_transform(x))
    assert np.isfinite(out).all()
    assert abs(out[:, 0].mean()) < 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PiecewiseLinearEncoder().fit(np.zeros((0, 2))), "x: expected at least one row"),
        (lambda: PiecewiseLinearEncoder().fit([1.0, 2.0]), r"x: expected \[N, F\], got \[2\]"),
        (lambda: PiecewiseLinearEncoder().fit([[1.0], [np.inf]]), "x: expected finite values"),
        (lambda: PiecewiseLinearEncoder().fit([[1.0]]).transform([[1.0, 2.0]]), "x: expected the 1 columns of the fit, got 2"),
        (lambda: PiecewiseLinearEncoder().transform([[1.0]]), "expected fit before transform"),
        (lambda: PiecewiseLinearEncoder(bins=1), "bins: expected"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
