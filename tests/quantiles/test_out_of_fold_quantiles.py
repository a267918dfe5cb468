"""out_of_fold_quantiles: one fold's events share their quantiles, which are those of the other folds' events."""

import numpy as np
import pytest
from quantile_cases import LEVELS, ragged

from ordkernels.quantiles import leave_one_out_quantiles, out_of_fold_quantiles, segment_quantiles

pytestmark = pytest.mark.usefixtures("numpy_empty_is_nan")


@pytest.mark.parametrize("kind", ["normal", "duplicates", "infinite"])
@pytest.mark.parametrize("folds", [2, 5])
def test_quantiles_are_those_of_the_other_folds(host_backend, folds, kind):
    values, offsets = ragged(np.random.default_rng(2), [0, 1, 2, 3, 8, 0, 17, 129], np.float32, kind)
    out = out_of_fold_quantiles(values, offsets, LEVELS, folds=folds, seed=4)
    assert out.dtype == np.float32
    fold = np.random.Philox(key=4).random_raw(len(values)) % folds
    group = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    for i in range(len(values)):
        others = values[(group == group[i]) & (fold != fold[i])]
        np.testing.assert_array_equal(out[i], segment_quantiles(others, [0, len(others)], LEVELS)[0])


def test_folds_belong_to_events():
    values = np.random.default_rng(0).random(60)
    first = out_of_fold_quantiles(values[:40], [0, 40], [0.5], seed=1)
    alone = out_of_fold_quantiles(values, [0, 40, 60], [0.5], seed=1)
    np.testing.assert_array_equal(alone[:40], first)
    assert (out_of_fold_quantiles(values[:40], [0, 40], [0.5], seed=2) != first).any()


@pytest.mark.filterwarnings("ignore:leave_one_out_quantiles")
def test_within_a_fold_they_do_not_move_against_the_label():
    """What makes the leave-one-out quantiles reveal a label: in each group, a larger label has a smaller quantile."""
    random, groups, size = np.random.default_rng(3), 400, 25
    values, offsets = random.exponential(1.0, groups * size), np.arange(groups + 1) * size
    fold = np.random.Philox(key=0).random_raw(len(values)) % 5
    revealing, honest = leave_one_out_quantiles(values, offsets, [0.5])[:, 0], out_of_fold_quantiles(values, offsets, [0.5])[:, 0]
    for g in range(groups):
        rows = slice(g * size, (g + 1) * size)
        assert np.corrcoef(values[rows], revealing[rows])[0, 1] < -0.3
        for f in range(5):
            assert len(np.unique(honest[rows][fold[rows] == f])) <= 1


@pytest.mark.parametrize(
    ("folds", "message"),
    [(1, "folds: expected 2 to 1000, got 1"), (2**63, "folds: expected 2 to 1000, got 9"), (2.5, "folds: expected an int")],
)
def test_errors(folds, message):
    with pytest.raises((TypeError, ValueError), match=message):
        out_of_fold_quantiles([1.0], [0, 1], [0.5], folds=folds)
