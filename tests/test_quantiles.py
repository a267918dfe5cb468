"""Ragged, leave-one-out and history quantiles: compiled against numpy.quantile, brute force and the reference."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordkernels import use_backend
from ordkernels._backend import host_module
from ordkernels.quantiles import history_quantiles, leave_one_out_quantiles, segment_quantiles

LEVELS = np.array([0.5, 0.0, 1.0, 0.025, 0.975, 0.5, 1 / 3, 0.9])  # unsorted, repeated, both ends
HOSTILE = [0, 1, 2, 3, 7, 8, 9, 31, 33, 127, 128, 129, 1023, 1024, 1025, 5000]
BACKENDS = ["reference", *(["cpu"] if host_module() else [])]


@pytest.fixture(params=BACKENDS)
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def nan_memory(monkeypatch):
    """What NumPy leaves uninitialised is NaN, for the reference; the compiled kernels: test_every_instruction_set."""
    empty = np.empty

    def filled(*args, **kwargs):
        out = empty(*args, **kwargs)
        if out.dtype.kind == "f":
            out.fill(np.nan)
        return out

    monkeypatch.setattr(np, "empty", filled)


def ragged(rng, sizes, dtype=np.float64, kind="normal"):
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(offsets[-1])
    values = {
        "normal": lambda: rng.normal(size=n),
        "duplicates": lambda: rng.integers(-3, 4, n).astype(np.float64),
        "constant": lambda: np.full(n, -2.5),
        "zeros": lambda: np.where(rng.random(n) < 0.5, -0.0, 0.0),
        "denormal": lambda: rng.integers(-50, 50, n) * np.finfo(dtype).smallest_subnormal.astype(np.float64),
        "huge": lambda: rng.choice([-1, 1], n) * float(np.finfo(dtype).max) * rng.random(n),
        "infinite": lambda: rng.choice([-np.inf, np.inf, 0.0, 1.5, -4.0], n),
        "sorted": lambda: np.sort(rng.normal(size=n)),
        "falling": lambda: -np.sort(rng.normal(size=n)),
    }[kind]()
    return values.astype(dtype), offsets


def by_numpy(values, offsets, levels):
    """numpy.quantile of each group in fp64, rounded once; NaN for an empty group."""
    out = np.full((len(offsets) - 1, len(levels)), np.nan)
    for g in range(len(out)):
        if offsets[g] < offsets[g + 1]:
            out[g] = np.quantile(values[offsets[g] : offsets[g + 1]].astype(np.float64), levels)
    return out.astype(values.dtype)


@pytest.mark.parametrize("kind", ["normal", "duplicates", "constant", "zeros", "denormal", "sorted", "falling"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_segment_equals_numpy(backend, dtype, kind):
    rng = np.random.default_rng(1)
    values, offsets = ragged(rng, rng.permutation(HOSTILE + [40] * 20), dtype, kind)
    out = segment_quantiles(values, offsets, LEVELS)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, by_numpy(values, offsets, LEVELS))


@pytest.mark.parametrize("n", HOSTILE)
def test_segment_single_group(backend, n):
    values, offsets = ragged(np.random.default_rng(n), [n], np.float32)
    np.testing.assert_array_equal(segment_quantiles(values, offsets, LEVELS), by_numpy(values, offsets, LEVELS))


@pytest.mark.parametrize("n", range(70))
def test_every_small_size_of_the_network(n):
    """Zeros and ones are all that a sorting network has to get right; every size, full and partly filled tiles."""
    rng = np.random.default_rng(n)
    for groups in (1, 7, 8, 9):
        values, offsets = ragged(rng, [n] * groups, np.float32)
        values = (values > rng.normal(size=values.shape)).astype(np.float32)
        np.testing.assert_array_equal(segment_quantiles(values, offsets, LEVELS), by_numpy(values, offsets, LEVELS))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities(backend, dtype):
    inf = np.inf
    values = np.array([inf, inf, -inf, 3.0, 3.0, inf, -inf, inf, -inf, -inf], dtype)
    out = segment_quantiles(values, [0, 2, 4, 6, 8, 10], [0.0, 0.25, 0.5, 0.75, 1.0])
    nan = np.nan  # the middle of (-inf, inf) alone
    expected = [
        [inf] * 5,
        [-inf, -inf, -inf, -inf, 3.0],
        [3.0, inf, inf, inf, inf],
        [-inf, nan, nan, nan, inf],
        [-inf] * 5,
    ]
    np.testing.assert_array_equal(out, np.array(expected, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gap_that_overflows_stays_inside(backend, dtype):
    big = np.finfo(dtype).max
    out = segment_quantiles(np.array([big, -big], dtype), [0, 2], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(out, [[-big / 2, 0.0, big / 2]], rtol=4 * np.finfo(dtype).eps)


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


def brute_history(values, group, time, levels, min_events):
    out = np.full((len(values), len(levels)), np.nan)
    for i in range(len(values)):
        past = values[(group == group[i]) & (time < time[i])].astype(np.float64)
        if len(past) >= min_events:
            out[i] = np.quantile(past, levels)
    return out.astype(values.dtype)


@pytest.mark.parametrize("min_events", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_history_sees_strictly_earlier_events_only(backend, dtype, min_events):
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


def test_history_with_scattered_ids_and_extreme_times(backend):
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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False, width=32), max_size=20), max_size=12), st.lists(st.floats(0, 1)))
def test_compiled_is_the_reference_bit_for_bit(groups, levels):
    values = np.array([x for g in groups for x in g], np.float32)
    offsets = np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64)
    for op in (segment_quantiles, leave_one_out_quantiles):
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


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not built")
@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(isa):
    """The variable is read once for each process."""
    code = """if True:
        import numpy as np
        from ordkernels.quantiles import segment_quantiles
        rng = np.random.default_rng(8)
        sizes = rng.integers(0, 1100, 200)
        for dtype in (np.float32, np.float64):
            x, offsets = rng.normal(size=sizes.sum()).astype(dtype), np.concatenate([[0], np.cumsum(sizes)])
            out = segment_quantiles(x, offsets, [0.1, 0.5, 0.77])
            for g in range(200):
                if sizes[g]:
                    q = np.quantile(x[offsets[g] : offsets[g + 1]].astype(float), [0.1, 0.5, 0.77])
                    assert (out[g] == q.astype(dtype)).all(), g
        print("same")
    """
    env = {**os.environ, "ORDKERNELS_ISA": isa, "MALLOC_PERTURB_": "1"}  # no memory starts as zeros
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.uint64])
def test_integers_become_fp64(backend, dtype):
    out = segment_quantiles(np.array([1, 4, 2], dtype), np.array([0, 3], np.uint8), [0.25, 0.5])
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, [[1.5, 2.0]])


def test_half_precision_is_rounded_once(backend):
    x = np.array([1.0, 1.001, 7.0], np.float16)
    out = segment_quantiles(x, [0, 3], [0.3])
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out[0], np.quantile(x.astype(np.float64), [0.3]).astype(np.float16))


def test_strides_and_byte_order(backend):
    rng = np.random.default_rng(9)
    values, offsets = ragged(rng, [5, 0, 9, 130], np.float32)
    expected = segment_quantiles(values, offsets, LEVELS)
    wide = np.zeros((values.size, 3), np.float32)
    wide[:, 1] = values
    levels = np.repeat(LEVELS, 2)[::2]
    for x in (wide[:, 1], values[::-1].copy()[::-1], values.astype(">f4")):
        np.testing.assert_array_equal(segment_quantiles(x, np.repeat(offsets, 2)[::2], levels), expected)
    group, time = np.repeat(np.arange(4), np.diff(offsets)), rng.integers(0, 9, values.size)
    expected = history_quantiles(values, group, time, LEVELS)
    np.testing.assert_array_equal(history_quantiles(wide[:, 1], np.repeat(group, 2)[::2], time.astype(">i4"), LEVELS), expected)


def test_empty(backend):
    assert segment_quantiles(np.zeros(0, np.float32), [0], [0.5]).shape == (0, 1)
    assert segment_quantiles([], [0, 0, 0], [0.5, 1.0]).shape == (2, 2)
    assert np.isnan(segment_quantiles([], [0, 0, 0], [0.5])).all()
    assert segment_quantiles([1.0, 2.0], [0, 2], []).shape == (1, 0)
    assert leave_one_out_quantiles([], [0, 0], [0.5]).shape == (0, 1)
    assert leave_one_out_quantiles([1.0], [0, 1], []).shape == (1, 0)
    assert history_quantiles([], [], [], [0.5]).shape == (0, 1)
    assert history_quantiles([1.0], [0], [0], []).shape == (1, 0)


def test_arguments_are_left_alone(backend):
    rng = np.random.default_rng(10)
    values, offsets = ragged(rng, [1500, 20, 33], np.float32)
    group, time = np.repeat(np.arange(3), np.diff(offsets)), rng.permutation(values.size)
    kept = values.copy(), offsets.copy(), LEVELS.copy(), group.copy(), time.copy()
    segment_quantiles(values, offsets, LEVELS)
    leave_one_out_quantiles(values, offsets, LEVELS)
    history_quantiles(values, group, time, LEVELS)
    for a, b in zip((values, offsets, LEVELS, group, time), kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_come_back_as_tensors(backend):
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
        (lambda: segments(np.zeros(2, np.longdouble), [0, 2], [0.5]), T, "got " + str(np.dtype(np.longdouble))),
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
def test_errors_say_what_was_expected_and_what_came(backend, call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not built")
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
