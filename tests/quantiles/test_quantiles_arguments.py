"""What all three quantiles do with backends, threads, dtypes, strides, tensors, and arguments that are wrong."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantile_cases import LEVELS, ragged

from ordkernels import use_backend
from ordkernels._backend import host_module
from ordkernels.quantiles import history_quantiles, leave_one_out_quantiles, out_of_fold_quantiles, segment_quantiles

pytestmark = [
    pytest.mark.usefixtures("numpy_empty_is_nan"),
    pytest.mark.filterwarnings("ignore:leave_one_out_quantiles"),
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False, width=32), max_size=20), max_size=12), st.lists(st.floats(0, 1)))
def test_compiled_is_the_reference_bit_for_bit(groups, levels):
    values = np.array([x for g in groups for x in g], np.float32)
    offsets = np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64)
    for op in (segment_quantiles, leave_one_out_quantiles, out_of_fold_quantiles):
        with use_backend("reference"):
            expected = op(values, offsets, levels)
        np.testing.assert_array_equal(op(values, offsets, levels), expected)


def test_thread_count_changes_nothing(monkeypatch):
    rng = np.random.default_rng(7)
    values, offsets = ragged(rng, np.minimum(rng.geometric(0.02, 4000), 3000), np.float32)
    group = np.repeat(np.arange(4000), np.diff(offsets))
    time = rng.integers(0, 50, values.size)
    for f in (
        lambda **k: segment_quantiles(values, offsets, LEVELS, **k),
        lambda **k: leave_one_out_quantiles(values, offsets, LEVELS, **k),
        lambda **k: out_of_fold_quantiles(values, offsets, LEVELS, **k),
        lambda **k: history_quantiles(values, group, time, LEVELS, **k),
    ):
        one = f(num_threads=1)
        np.testing.assert_array_equal(f(num_threads=2), one)
        np.testing.assert_array_equal(f(num_threads=5), one)
        monkeypatch.setenv("ORDKERNELS_NUM_THREADS", "3")
        np.testing.assert_array_equal(f(), one)
    monkeypatch.setenv("ORDKERNELS_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="ORDKERNELS_NUM_THREADS: expected a whole number from 1 up, got 'many'"):
        segment_quantiles([1.0], [0, 1], [0.5])


def test_strides_and_byte_order(host_backend):
    rng = np.random.default_rng(9)
    values, offsets = ragged(rng, [5, 0, 9, 130], np.float32)
    expected = segment_quantiles(values, offsets, LEVELS)
    table = np.zeros((values.size, 3), np.float32)
    table[:, 1] = values
    levels = np.repeat(LEVELS, 2)[::2]
    for x in (table[:, 1], values[::-1].copy()[::-1], values.astype(">f4")):
        np.testing.assert_array_equal(segment_quantiles(x, np.repeat(offsets, 2)[::2], levels), expected)
    group, time = np.repeat(np.arange(4), np.diff(offsets)), rng.integers(0, 9, values.size)
    expected = history_quantiles(values, group, time, LEVELS)
    np.testing.assert_array_equal(history_quantiles(table[:, 1], np.repeat(group, 2)[::2], time.astype(">i4"), LEVELS), expected)


def test_empty(host_backend):
    assert segment_quantiles(np.zeros(0, np.float32), [0], [0.5]).shape == (0, 1)
    assert segment_quantiles([], [0, 0, 0], [0.5, 1.0]).shape == (2, 2)
    assert np.isnan(segment_quantiles([], [0, 0, 0], [0.5])).all()
    assert segment_quantiles([1.0, 2.0], [0, 2], []).shape == (1, 0)
    assert leave_one_out_quantiles([], [0, 0], [0.5]).shape == (0, 1)
    assert leave_one_out_quantiles([1.0], [0, 1], []).shape == (1, 0)
    assert history_quantiles([], [], [], [0.5]).shape == (0, 1)
    assert history_quantiles([1.0], [0], [0], []).shape == (1, 0)


def test_arguments_are_left_alone(host_backend):
    rng = np.random.default_rng(10)
    values, offsets = ragged(rng, [1500, 20, 33], np.float32)
    group, time = np.repeat(np.arange(3), np.diff(offsets)), rng.permutation(values.size)
    before = values.copy(), offsets.copy(), LEVELS.copy(), group.copy(), time.copy()
    segment_quantiles(values, offsets, LEVELS)
    leave_one_out_quantiles(values, offsets, LEVELS)
    history_quantiles(values, group, time, LEVELS)
    for a, b in zip((values, offsets, LEVELS, group, time), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_come_back_as_tensors(host_backend):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    values, offsets = ragged(rng, [4, 0, 30], np.float32)
    group, time = np.repeat(np.arange(3), np.diff(offsets)), rng.integers(0, 9, values.size)
    x = torch.from_numpy(values)
    out = segment_quantiles(x.requires_grad_(), torch.from_numpy(offsets), torch.from_numpy(LEVELS))
    assert out.dtype == torch.float32
    assert not out.requires_grad
    np.testing.assert_array_equal(out.numpy(), segment_quantiles(values, offsets, LEVELS))
    out = leave_one_out_quantiles(x, offsets, LEVELS)
    np.testing.assert_array_equal(out.numpy(), leave_one_out_quantiles(values, offsets, LEVELS))
    out = history_quantiles(x, torch.from_numpy(group), torch.from_numpy(time), LEVELS)
    np.testing.assert_array_equal(out.numpy(), history_quantiles(values, group, time, LEVELS))
    assert segment_quantiles(torch.tensor([1, 2]), [0, 2], [0.5]).dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16):
        half = torch.tensor([1.0, 2.0, 4.0]).to(dtype)
        out = segment_quantiles(half, [0, 3], [0.25])
        assert out.dtype == dtype
        assert out.item() == 1.5
    with pytest.raises(TypeError, match="values: expected a tensor with values, got a tensor on meta"):
        segment_quantiles(torch.zeros(2, device="meta"), [0, 2], [0.5])


def test_torch_is_not_needed():
    code = "import sys; from ordkernels.quantiles import segment_quantiles as f; f([1.0], [0, 1], [0.5]); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


NAN = np.array([1.0, np.nan, 2.0, np.nan])
NAT = np.array(["NaT"], "datetime64[s]")


T, V = TypeError, ValueError
segments = segment_quantiles


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: segments(NAN, [0, 4], [0.5]), V, "values: expected no NaN, got 2 of 4, the first at index 1"),
        (lambda: segments(np.zeros((2, 2)), [0, 4], [0.5]), V, "values: expected shape [N], got [2, 2]"),
        (lambda: segments(np.zeros(2, bool), [0, 2], [0.5]), T, "values: expected integers or floats of 16 to 64 bits, got bool"),
        (lambda: segments(["a"], [0, 1], [0.5]), T, "values: expected integers or floats of 16 to 64 bits, got <U1"),
        (lambda: segments(np.zeros(2, complex), [0, 2], [0.5]), T, "got complex128"),
        (lambda: segments([1.0, 2.0], [0.0, 2.0], [0.5]), T, "offsets: expected integers, got float64"),
        (lambda: segments([1.0, 2.0], [], [0.5]), V, "offsets: expected shape [G+1], at least [1], got [0]"),
        (lambda: segments([1.0, 2.0], [[0, 2]], [0.5]), V, "offsets: expected shape [G+1], got [1, 2]"),
        (lambda: segments([1.0, 2.0], [1, 2], [0.5]), V, "offsets: expected 0 at index 0, got 1"),
        (lambda: segments([1.0, 2.0], [0, 2, 1, 2], [0.5]), V, "offsets: expected no step down, got 1 at index 2 after 2"),
        (lambda: segments([1.0, 2.0], [0, 3], [0.5]), V, "offsets: expected the number of values N = 2 at the end, got 3"),
        (lambda: segments([1.0, 2.0], [0, 2], [0.5, 1.5]), V, "levels: expected numbers in [0, 1], got 1.5 at index 1"),
        (lambda: segments([1.0, 2.0], [0, 2], [np.nan]), V, "levels: expected numbers in [0, 1], got nan at index 0"),
        (lambda: segments([1.0, 2.0], [0, 2], 0.5), V, "levels: expected shape [L], got []"),
        (lambda: segments([1.0, 2.0], [0, 2], ["x"]), T, "levels: expected integers or floats of 16 to 64 bits, got <U1"),
        (lambda: segments([1.0], [0, 1], [0.5], num_threads=0), V, "num_threads: expected at least 1, got 0"),
        (lambda: segments([1.0], [0, 1], [0.5], num_threads=1.5), T, "num_threads: expected an int, got float"),
        (lambda: leave_one_out_quantiles(NAN, [0, 4], [0.5]), V, "values: expected no NaN, got 2 of 4, the first at index 1"),
        (lambda: leave_one_out_quantiles([1.0, 2.0], [0, 3], [0.5]), V, "offsets: expected the number of values N = 2 at the end, got 3"),
        (lambda: history_quantiles(NAN, [0] * 4, [0] * 4, [0.5]), V, "values: expected no NaN, got 2 of 4, the first at index 1"),
        (lambda: history_quantiles([1.0] * 4, [0] * 4, NAN, [0.5]), V, "time: expected no NaN, got 2 of 4, the first at index 1"),
        (lambda: history_quantiles([1.0], [0], NAT, [0.5]), V, "time: expected no NaT, got 1 of 1, the first at index 0"),
        (lambda: history_quantiles([1.0], [0.0], [0], [0.5]), T, "group: expected integers, got float64"),
        (lambda: history_quantiles([1.0], [0, 1], [0], [0.5]), V, "group: expected shape [N] = [1], as values, got [2]"),
        (lambda: history_quantiles([1.0], [0], [0, 1], [0.5]), V, "time: expected shape [N] = [1], as values, got [2]"),
        (lambda: history_quantiles([1.0], [0], ["a"], [0.5]), T, "time: expected integers, floats or datetime64, got <U1"),
        (lambda: history_quantiles([1.0], [0], [0], [0.5], 0), V, "min_events: expected at least 1, got 0"),
        (lambda: history_quantiles([1.0], [0], [0], [0.5], 1.0), T, "min_events: expected an int, got float"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_what_came(host_backend, call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.skipif(host_module() is None, reason="the compiled module is not built")
def test_the_compiled_module_checks_what_it_reads():
    host = host_module()
    x, levels = np.zeros(3, np.float32), np.array([0.5])
    for offsets in ([0, 4], [0, 2], [1, 3], [0, 5, 3], [-1, 3]):
        with pytest.raises(ValueError, match="offsets: expected"):
            host.segment_quantiles(x, np.array(offsets), levels, 1)
    with pytest.raises(ValueError, match=r"levels: expected numbers in \[0, 1\]"):
        host.leave_one_out_quantiles(x, np.array([0, 3]), np.array([1.5]), 1)
    with pytest.raises(ValueError, match=r"time: expected shape \[N\] = \[3\], got \[2\]"):
        host.history_quantiles(x, np.zeros(3, np.int64), np.zeros(2), levels, 1, 1)
