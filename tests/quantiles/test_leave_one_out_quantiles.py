"""leave_one_out_quantiles against quantiles of the group without the event."""

from itertools import pairwise

import numpy as np
import pytest
from quantile_cases import LEVELS, ragged

from ordkernels.quantiles import leave_one_out_quantiles, segment_quantiles

pytestmark = [
    pytest.mark.usefixtures("numpy_empty_is_nan"),
    pytest.mark.filterwarnings("ignore:leave_one_out_quantiles"),
]


@pytest.mark.parametrize("kind", ["normal", "duplicates", "infinite", "huge", "zeros"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leave_one_out_is_the_group_without_the_event(host_backend, dtype, kind):
    rng = np.random.default_rng(2)
    values, offsets = ragged(rng, [0, 1, 2, 3, 8, 0, 1, 17, 129, 65], dtype, kind)
    out = leave_one_out_quantiles(values, offsets, LEVELS)
    assert out.dtype == dtype
    row = 0
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            others = np.delete(values[begin:end], i - begin)
            np.testing.assert_array_equal(out[row], segment_quantiles(others, [0, others.size], LEVELS)[0])
            row += 1
    assert row == len(out)


def test_leave_one_out_of_a_long_group():
    rng = np.random.default_rng(3)
    values, offsets = ragged(rng, [1500], np.float32)
    out = leave_one_out_quantiles(values, offsets, LEVELS)
    for i in rng.integers(0, 1500, 40):
        others = np.delete(values, i).astype(np.float64)
        np.testing.assert_array_equal(out[i], np.quantile(others, LEVELS).astype(np.float32))


@pytest.mark.filterwarnings("default:leave_one_out_quantiles")
def test_it_warns_of_what_it_reveals():
    with pytest.warns(UserWarning, match="reveal the event's own value; use out_of_fold_quantiles"):
        leave_one_out_quantiles([3.0, 1.0], [0, 2], [0.5])
