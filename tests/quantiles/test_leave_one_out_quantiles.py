"""leave_one_out_quantiles against quantiles of the group without the event."""

from itertools import pairwise

import numpy as np
import pytest
from quantile_cases import LEVELS, ragged

from ordkernels.quantiles import leave_one_out_quantiles, segment_quantiles


@pytest.mark.parametrize("kind", ["normal", "duplicates", "infinite", "huge", "zeros"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leave_one_out_is_the_group_without_the_event(backend, dtype, kind):
    rng = np.random.default_rng(2)
    values, offsets = ragged(rng, [0, 1, 2, 3, 8, 0, 1, 17, 129, 65], dtype, kind)
    out = leave_one_out_quantiles(values, offsets, LEVELS)
    assert out.dtype == dtype
    row = 0
    for begin, end in pairwise(offsets):
        for i in range(begin, end):
            rest = np.delete(values[begin:end], i - begin)
            np.testing.assert_array_equal(out[row], segment_quantiles(rest, [0, rest.size], LEVELS)[0])
            row += 1
    assert row == len(out)


def test_leave_one_out_of_a_long_group():
    rng = np.random.default_rng(3)
    values, offsets = ragged(rng, [1500], np.float32)
    out = leave_one_out_quantiles(values, offsets, LEVELS)
    for i in rng.integers(0, 1500, 40):
        rest = np.delete(values, i).astype(np.float64)
        np.testing.assert_array_equal(out[i], np.quantile(rest, LEVELS).astype(np.float32))
