"""Standardiser: the scale of the rows it was fitted on, missing values, errors."""

import numpy as np
import pytest

from ordkernels.data import Standardiser


def test_mean_and_deviation_are_those_of_the_fitted_rows():
    random = np.random.default_rng(0)
    train, test = random.normal([3, -1e6, 0], [2, 10, 0], (200, 3)), random.normal([9, 0, 5], 1.0, (50, 3))
    scale = Standardiser(clip=False).fit(train)
    out = scale.transform(train)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out[:, :2].std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(scale.transform(test)[:, 0], (test[:, 0] - train[:, 0].mean()) / train[:, 0].std(), rtol=1e-5)
    np.testing.assert_allclose(scale.transform(test)[:, 2], test[:, 2], rtol=1e-6)  # constant in training: its deviation counts as 1


def test_missing_values_are_the_median_of_the_fitted_rows():
    train = np.array([[1.0, np.nan], [2.0, np.nan], [9.0, np.nan], [np.nan, np.nan]])
    scale = Standardiser().fit(train)
    out = scale.transform([[np.nan, np.nan], [2.0, 7.0]])
    assert out[0, 0] == out[1, 0]
    assert out[0, 1] == out[1, 1] == 0  # no value was known: clipped to what missing ones became


def test_clip_and_least_deviation():
    flag = np.zeros((1000, 1))
    flag[3] = 1
    assert Standardiser(least_deviation=0.1).fit(flag).transform([[1.0], [5.0]]).max() == pytest.approx(9.99)
    assert Standardiser().fit(flag).transform([[1.0]])[0, 0] > 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Standardiser().fit(np.zeros((0, 2))), "x: expected at least one row"),
        (lambda: Standardiser().fit([1.0, 2.0]), r"x: expected \[N, F\], got \[2\]"),
        (lambda: Standardiser().fit([[1.0], [np.inf]]), "x: expected finite values, or NaN for missing ones, got inf in row 1, column 0"),
        (lambda: Standardiser().fit([[1.0]]).transform([[1.0, 2.0]]), "x: expected the 1 columns of the fit, got 2"),
        (lambda: Standardiser().transform([[1.0]]), "expected fit before transform"),
        (lambda: Standardiser(least_deviation=-1), "least_deviation: expected"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
