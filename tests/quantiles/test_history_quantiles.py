"""history_quantiles against brute force: strictly earlier events alone, in any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantile_cases import LEVELS

from ordkernels.quantiles import history_quantiles

pytestmark = pytest.mark.usefixtures("numpy_empty_is_nan")


def brute_history(values, group, time, levels, min_events):
    out = np.full((len(values), len(levels)), np.nan)
    for i in range(len(values)):
        past = values[(group == group[i]) & (time < time[i])].astype(np.float64)
        if len(past) >= min_events:
            out[i] = np.quantile(past, levels)
    return out.astype(values.dtype)


@pytest.mark.parametrize("min_events", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_history_sees_strictly_earlier_events_only(host_backend, dtype, min_events):
    rng = np.random.default_rng(4)
    n = 700
    values = rng.normal(size=n).round(1).astype(dtype)
    group, time = rng.integers(-4, 9, n) * 7, rng.integers(0, 30, n)  # shuffled, many ties in time
    out = history_quantiles(values, group, time, LEVELS, min_events)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, brute_history(values, group, time, LEVELS, min_events))
    assert np.isnan(out).any()
    assert not np.isnan(out).all()


@pytest.mark.parametrize("ties", [1, 40, 6000])
def test_history_of_long_groups(ties):
    """Beyond the length at which groups are replayed backwards; every group's rows by brute force on a sample."""
    rng = np.random.default_rng(5)
    n = 6000
    values = rng.integers(0, 500, n).astype(np.float32)
    group, time = (rng.random(n) < 0.3).astype(np.int64), rng.permutation(n) // ties
    out = history_quantiles(values, group, time, LEVELS, 3)
    sample = np.concatenate([rng.integers(0, n, 300), np.argsort(time, kind="stable")[:20]])
    for i in sample:
        past = values[(group == group[i]) & (time < time[i])].astype(np.float64)
        row = np.quantile(past, LEVELS).astype(np.float32) if len(past) >= 3 else np.full(len(LEVELS), np.nan)
        np.testing.assert_array_equal(out[i], row)


def test_history_with_scattered_ids_and_extreme_times(host_backend):
    rng = np.random.default_rng(6)
    n, low, high = 200, np.iinfo(np.int64).min, np.iinfo(np.int64).max
    values, group = rng.normal(size=n), rng.choice([low, high, 0, -1, 10**15], n)
    for time in (
        rng.choice([low, high, 2**60, 2**60 + 1], n),  # the last two are one number in fp64
        rng.choice([-np.inf, np.inf, -0.0, 0.0, 5e-324], n),
        rng.integers(0, 2**64, n, dtype=np.uint64),
        rng.integers(0, 9, n).astype("datetime64[s]"),
        rng.integers(0, 9, n).astype(np.float32),
        rng.integers(0, 9, n).astype(np.int8),
    ):
        out = history_quantiles(values, group, time, [0.5])
        np.testing.assert_array_equal(out, brute_history(values, group, time, [0.5], 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(0, 3), st.integers(0, 5)), min_size=0, max_size=40),
    st.lists(st.floats(0, 1), min_size=0, max_size=4),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_history_does_not_depend_on_order_or_on_the_future(events, levels, min_events, random):
    table = np.array(events, np.float64).reshape(-1, 3)
    values, group, time = table[:, 0].astype(np.float32), table[:, 1].astype(int), table[:, 2].astype(int)
    out = history_quantiles(values, group, time, levels, min_events)
    order = np.array(random.sample(range(len(events)), len(events)), int)
    np.testing.assert_array_equal(history_quantiles(values[order], group[order], time[order], levels, min_events), out[order])
    early = time < 3
    np.testing.assert_array_equal(history_quantiles(values[early], group[early], time[early], levels, min_events), out[early])
    np.testing.assert_array_equal(out, brute_history(values, group, time, levels, min_events))
