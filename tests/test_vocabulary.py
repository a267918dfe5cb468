"""ValueVocabulary: the authors' loop token for token, greedy encoding by its properties, compiled against reference."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ordkernels
from ordkernels._backend import host_module
from ordkernels.vocabulary import EOS, ValueVocabulary

BACKENDS = ["reference", *(["cpu"] if host_module() else [])]
DATA = Path(__file__).parents[1] / "bench" / "data"


def authors(Y, q_start=0.9999, q_end=0.9, alpha=0.99, epsilon=1e-6):
    """Their loop, written again."""
    left, q, tokens = np.array(Y, float), q_start, []
    while True:
        o = np.percentile(left, 100 * q)
        if int(o) == 0:
            return tokens
        tokens.append(int(o))
        left = np.where(left >= o, left - o, left)
        q = max(q_end, q * alpha)
        if np.max(left / (np.array(Y) + 1e-10)) <= epsilon:
            return tokens


def greedy(label, values, tolerance):
    """One label by the definition: values taken, and the residual; None if it cannot be written."""
    taken, left = [], label
    while left > tolerance * label:
        v = next((v for v in values if v <= left), None)
        if v is None:
            return None
        taken.append(v)
        left -= v
    return taken, left


def watch_times(N, seed=0):
    rng = np.random.default_rng(seed)
    y = np.round(np.minimum(rng.lognormal(2.5, 1.3, N), 3600) * 1000).astype(np.int64)
    y[rng.random(N) < 0.1] = 0
    return y


LABELS = {
    "watch times": watch_times(3000),
    "small": np.random.default_rng(1).integers(0, 30, 500),
    "large": np.random.default_rng(2).integers(0, 2**45, 300),
    "one": np.array([123456]),
    "zeros": np.zeros(7, np.int64),
    "one among zeros": np.array([0] * 20 + [10**6]),
    "equal": np.full(50, 777),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize(
    "settings_", [{}, {"q_start": 0.99, "q_end": 0.5}, {"alpha": 0.9, "epsilon": 0.01}, {"q_start": 0.7, "q_end": 0.7}]
)
def test_the_tokens_are_those_of_the_authors_loop(host_backend, kind, settings_):
    found = authors(LABELS[kind], **settings_)
    vocabulary = ValueVocabulary.fit(LABELS[kind], **settings_)
    assert vocabulary.values.tolist() == sorted({*found, 1}, reverse=True)
    assert vocabulary.values.dtype == np.int64


@pytest.mark.skipif(host_module() is None, reason="the compiled module is not built")
@pytest.mark.parametrize("kind", LABELS)
def test_the_compiled_loop_finds_them_in_the_same_order(kind):
    for threads in (1, 3):
        for q_start, q_end, alpha, epsilon in ((0.9999, 0.9, 0.99, 1e-6), (0.5, 0.1, 0.8, 0.0), (1.0, 0.9, 0.9, 0.1)):
            got = host_module().vocabulary_fit(LABELS[kind].astype(np.int64), q_start, q_end, alpha, epsilon, threads)
            assert got.tolist() == authors(LABELS[kind], q_start, q_end, alpha, epsilon)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 40), st.integers(0, 10**7)), min_size=1, max_size=60),
    st.floats(0.05, 0.9999),
    st.floats(0.05, 1.0),
    st.floats(0.3, 1.0),
)
def test_any_labels_and_settings(labels, q_start, share, alpha):
    how = {"q_start": q_start, "q_end": q_start * share, "alpha": alpha, "epsilon": 1e-6}
    assert ValueVocabulary.fit(labels, **how).values.tolist() == sorted({*authors(labels, **how), 1}, reverse=True)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 100), st.integers(0, 10**6)), max_size=30),
    st.sets(st.one_of(st.integers(1, 100), st.integers(1, 10**6)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.001, 0.05, 0.5]),
)
def test_encoding_is_greedy_and_decodes_within_the_tolerance(labels, values, tolerance):
    vocabulary = ValueVocabulary(sorted({*values, 1}))
    whole = [greedy(y, vocabulary.values.tolist(), tolerance) for y in labels]
    longest = max((len(taken) for taken, _ in whole), default=0)
    if longest > 500:
        with pytest.raises(ValueError, match="labels: expected sequences of at most"):
            vocabulary.encode(labels, 500, tolerance)
        return
    tokens, lengths, residual = vocabulary.encode(labels, longest + 2, tolerance)
    assert tokens.shape == (len(labels), longest + 1)
    assert tokens.dtype == np.int16
    for row, n, left, (taken, expected) in zip(tokens.tolist(), lengths, residual, whole, strict=True):
        worth = [0, 0, 0, *vocabulary.values.tolist()]
        assert [worth[t] for t in row[:n]] == taken
        assert row[n:] == [EOS] + [0] * (longest - n)
        assert left == expected
    assert np.array_equal(vocabulary.decode(tokens) + residual, np.array(labels, np.int64))
    assert (residual <= tolerance * np.array(labels)).all()
    report = vocabulary.report(labels, tolerance)
    assert report.counts.tolist() == [sum(taken.count(v) for taken, _ in whole) for v in vocabulary.values]
    assert report.longest == longest
    assert report.lengths.sum() == len(labels)
    assert report.largest_error <= tolerance
    if longest:
        with pytest.raises(ValueError, match=rf"labels: expected sequences of at most {longest - 1} values"):
            vocabulary.encode(labels, longest + 1, tolerance) if longest > 1 else vocabulary.encode(labels, 2, tolerance)


@pytest.mark.parametrize("N", [0, 1, 127, 129, 40000])
def test_backends_and_threads_agree(N):
    labels = watch_times(40000)[:N]
    vocabulary = ValueVocabulary.fit(watch_times(3000))
    results = []
    for name in BACKENDS:
        with ordkernels.use_backend(name):
            for threads in (1, 3):
                report = vocabulary.report(labels, 0.0, num_threads=threads)
                results.append((*vocabulary.encode(labels, 40, 0.0, num_threads=threads), report.counts, report.lengths))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


@pytest.mark.parametrize(("values", "max_tokens"), [([1, 50], 70), ([1, 20], 60), ([1, 5, 25, 125], 15), ([1, 5, 25, 125], 14)])
def test_many_small_labels_with_long_sequences(values, max_tokens):
    labels = np.random.default_rng(0).integers(0, 400, 9000)
    labels[::50] *= 5
    labels = np.minimum(labels, 600)
    vocabulary, results = ValueVocabulary(values), []
    for name in BACKENDS:
        with ordkernels.use_backend(name):
            results.append(vocabulary.encode(labels, max_tokens, 0.01))
            for bad in (0, 8999):
                worse = labels.copy()
                worse[bad] = 10**6
                with pytest.raises(ValueError, match=rf"got 1000000 units, .* values, at index {bad} \(1 such of 9000\)"):
                    vocabulary.encode(worse, max_tokens, 0.01)
    for a, b in zip(results[0], results[-1], strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(vocabulary.decode(results[-1][0]) + results[-1][2], labels)


def test_zero_is_eos_alone_and_large_vocabularies_are_wider(host_backend):
    tokens, lengths, residual = ValueVocabulary([1, 7]).encode([0], max_tokens=2)
    assert (tokens.tolist(), lengths.tolist(), residual.tolist()) == ([[EOS]], [0], [0])
    many = ValueVocabulary(np.arange(1, 40001))
    tokens, _, _ = many.encode([40000, 1, 50000], max_tokens=5)
    assert tokens.dtype == np.int32
    assert many.decode(tokens).tolist() == [40000, 1, 50000]
    assert ValueVocabulary(np.arange(1, 1000)).encode([998, 997, 3], 4)[0].tolist() == [[4, 2, 0], [5, 2, 0], [999, 2, 0]]


def test_units_go_both_ways(host_backend):
    seconds = np.array([12.345, 0.0, 3.7, 3600.0])
    vocabulary = ValueVocabulary.fit(seconds, unit=0.001)
    assert vocabulary.values.tolist() == ValueVocabulary.fit([12345, 0, 3700, 3600000]).values.tolist()
    assert vocabulary.token_values.tolist() == [0.0, 0.0, 0.0, *(v / 1000 for v in vocabulary.values.tolist())]
    assert vocabulary.size == len(vocabulary.token_values) == len(vocabulary)
    for given_ in (seconds, seconds.astype(np.float32)):
        tokens, _, residual = vocabulary.encode(given_, 400, 0.0)
        assert residual.tolist() == [0.0] * 4
        assert vocabulary.decode(tokens).tolist() == [12.345, 0.0, 3.7, 3600.0]
    tokens, _, residual = vocabulary.encode(seconds, 40, 0.1)
    np.testing.assert_allclose(vocabulary.decode(tokens) + residual, seconds)
    minutes = ValueVocabulary([1, 5], unit=60)
    assert minutes.decode(minutes.encode([120, 301, 660], 10)[0]).tolist() == [120.0, 300.0, 660.0]
    assert ValueVocabulary.binary(0.02, unit=0.001).values.tolist() == [16, 8, 4, 2, 1]


def test_the_papers_other_vocabularies():
    assert ValueVocabulary.manual(1000).values.tolist() == [1000, 500, 300, 100, 50, 30, 10, 5, 3, 1]
    assert ValueVocabulary.manual(np.array([4, 29])).values.tolist() == [10, 5, 3, 1]
    assert ValueVocabulary.manual(40, digits=(1, 2)).values.tolist() == [20, 10, 2, 1]
    assert ValueVocabulary.manual(0).values.tolist() == [1]
    assert ValueVocabulary.binary(1024).values.tolist() == [1 << n for n in range(10, -1, -1)]
    labels = np.arange(2048)
    tokens, lengths, _ = ValueVocabulary.binary(labels).encode(labels, 13, 0.0)
    assert lengths.tolist() == [int(y).bit_count() for y in labels]
    assert np.array_equal(ValueVocabulary.binary(labels).decode(tokens), labels)


def test_covering_adds_the_powers_of_two_that_labels_need(host_backend):
    labels = [0, 7, 1000, 26_000, 26_013, 2**53]
    gaps = ValueVocabulary([1, 1000])
    with pytest.raises(ValueError, match=r"26000 units, 26 values, at index 3 \(3 such of 6\)"):
        gaps.encode(labels)
    found = gaps.covering(labels)
    tokens, lengths, _ = found.encode(labels)
    assert lengths.max() <= 18
    np.testing.assert_allclose(found.decode(tokens), labels, rtol=0.001)
    assert set(gaps.values) < set(found.values) <= set(gaps.values) | set(2 ** np.arange(54))
    assert found.covering(labels) is found
    assert gaps.covering([]) is gaps
    with pytest.raises(ValueError, match=r"sequences of at most 2 values and EOS .*at index 1 \(2 such of 4\)"):
        gaps.covering([0, 7, 1000, 26_014], max_tokens=4)


def test_decode_stops_at_eos_and_keeps_leading_dimensions():
    vocabulary = ValueVocabulary([1, 5, 20])
    assert vocabulary.decode([[[3, 2, 3], [1, 4, 5]], [[0, 5, 2], [2, 3, 3]]]).tolist() == [[20, 6], [1, 0]]
    assert int(vocabulary.decode([3, 3, 2])) == 40
    assert vocabulary.decode(np.zeros((0, 4), np.int64)).shape == (0,)
    assert torch.equal(vocabulary.decode(torch.tensor([[3, 2], [4, 4]])), torch.tensor([20, 10]))


def test_tensors_and_every_dtype(host_backend):
    labels = [3, 0, 47, 20]
    vocabulary = ValueVocabulary([1, 5, 20])
    expected = vocabulary.encode(labels, 10)
    for dtype in ("u1", "i2", "i4", "u8", "f2", "f4", "f8", ">i4", ">f8"):
        for a, b in zip(vocabulary.encode(np.array(labels, dtype), 10), expected, strict=True):
            assert np.array_equal(a, b)
    for dtype in (torch.int32, torch.int64, torch.float32, torch.bfloat16):
        tokens, lengths, residual = vocabulary.encode(torch.tensor(labels, dtype=dtype), 10)
        assert (tokens.dtype, lengths.dtype, residual.dtype) == (torch.int16, torch.int32, torch.int64)
        assert np.array_equal(tokens.numpy(), expected[0])
        assert torch.equal(vocabulary.decode(tokens), torch.tensor(labels))
    assert ValueVocabulary.fit(torch.tensor(labels)) == ValueVocabulary.fit(np.array(labels)[::-1])
    assert vocabulary.encode([], 10)[0].shape == (0, 9)


def test_save_and_load(tmp_path):
    for vocabulary in (ValueVocabulary([1, 5, 2**50]), ValueVocabulary([3], unit=0.01)):
        vocabulary.save(tmp_path / "v.json")
        again = ValueVocabulary.load(str(tmp_path / "v.json"))
        assert again == vocabulary
        assert hash(again) == hash(vocabulary)
        assert again.unit == vocabulary.unit
    assert ValueVocabulary([1]) != ValueVocabulary([1], unit=0.1)
    assert repr(ValueVocabulary([1, 9])) == "ValueVocabulary(2 values from 1 to 9, unit=None)"
    for content in ("{}", "[]", "no json", json.dumps({"format": 2}), json.dumps({"format": 1, "values": [0], "unit": None}), "[" * 100_000,
                    '{"format": 1, "values": [1], "unit": 5e-324}'):  # fmt: skip
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match="path: expected a vocabulary saved by this class"):
            ValueVocabulary.load(tmp_path / "bad.json")


def test_report_as_text_and_plot(tmp_path):
    report = ValueVocabulary([1, 5, 20], unit=0.5).report([10.0, 0.0, 23.5])
    assert report.values.tolist() == [10.0, 2.5, 0.5]
    assert report.counts.tolist() == [3, 1, 2]
    assert report.lengths.tolist() == [1, 1, 0, 0, 0, 1]
    lines = str(report).splitlines()
    assert lines[0] == "3 labels, 3 values; sequences of 2.00 values, at most 5"
    assert len(lines) == 5
    assert ValueVocabulary([1, 5]).report([]).longest == 0
    pytest.importorskip("matplotlib", reason="matplotlib draws the plot")
    report.plot(tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_values_cannot_be_changed():
    vocabulary = ValueVocabulary([1, 5])
    for same in (vocabulary, copy.deepcopy(vocabulary), pickle.loads(pickle.dumps(vocabulary))):
        with pytest.raises(ValueError, match="read-only"):
            same.values[0] = 2


ONES, T, V = ValueVocabulary([1, 5]), TypeError, ValueError


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ValueVocabulary.fit([]), V, "labels: expected from 1 to 2^32 - 1 of them, got 0"),
        (lambda: ValueVocabulary.fit([1.0, np.nan, np.nan]), V, "labels: expected no NaN, got nan at index 1 (2 such of 3)"),
        (lambda: ValueVocabulary.fit([3, -1, -2]), V, "labels: expected 0 to 2^53, got -1 at index 1 (2 such of 3)"),
        (lambda: ValueVocabulary.fit([3.0, -1.5]), V, "labels: expected 0 or more, got -1.5 at index 1 (1 such of 2)"),
        (lambda: ValueVocabulary.fit([3.0, np.inf]), V, "labels: expected at most 2^53 units, got inf at index 1"),
        (lambda: ValueVocabulary.fit([3.0, 2.5]), V, "labels: expected whole numbers; with unit= labels are rounded to it, got 2.5"),
        (lambda: ValueVocabulary.fit([2**60]), V, "labels: expected 0 to 2^53, got 1152921504606846976 at index 0"),
        (lambda: ValueVocabulary.fit([[1, 2]]), V, "labels: expected shape [N], got [1, 2]"),
        (lambda: ValueVocabulary.fit(["a"]), T, "labels: expected integers or floats of 16 to 64 bits, got <U1"),
        (lambda: ValueVocabulary.fit([1], q_start=1.5), V, "q_start, q_end: expected 0 < q_end <= q_start <= 1, got 1.5 and 0.9"),
        (lambda: ValueVocabulary.fit([1], q_end=0.99999), V, "q_start, q_end: expected"),
        (lambda: ValueVocabulary.fit([1], alpha=0), V, "alpha: expected a number in (0, 1], got 0"),
        (lambda: ValueVocabulary.fit([1], alpha="1"), T, "alpha: expected a number, got str"),
        (lambda: ValueVocabulary.fit([1], epsilon=float("nan")), V, "epsilon: expected a number of at least 0, got nan"),
        (lambda: ValueVocabulary.fit([1], unit=0), V, "unit: expected a finite number above 0, got 0"),
        (lambda: ValueVocabulary.fit([1], unit="ms"), T, "unit: expected a number, got str"),
        (lambda: ValueVocabulary([0, 1]), V, "values: expected at least one, from 1 to 2^53, got 0 to 1"),
        (lambda: ValueVocabulary(np.zeros(0, int)), V, "values: expected at least one, from 1 to 2^53, got none"),
        (lambda: ValueVocabulary([1.5]), T, "values: expected integers, got float64"),
        (lambda: ValueVocabulary.manual(10, digits=(2, 5)), V, "digits: expected whole numbers from 1 up with 1 among them, got [2, 5]"),
        (lambda: ValueVocabulary.manual(10, digits=(1, 2.5)), T, "digits: expected integers, got float64"),
        (lambda: ValueVocabulary.manual(10, digits=3), V, "digits: expected shape [D], got []"),
        (lambda: ValueVocabulary.manual(-1), V, "largest: expected 0 to 2^53, got -1"),
        (lambda: ValueVocabulary.manual([]), V, "largest: expected a number, or at least one label, got none"),
        (lambda: ONES.encode([4, 100], 10), V, "8 values and EOS (max_tokens=10), got 100 units, 20 values, at index 1 (1 such of 2)"),
        (lambda: ValueVocabulary([4]).encode([8, 6, 3]), V, "the smallest is 4, got 6 units at index 1 (2 such of 3)"),
        (lambda: ValueVocabulary([4]).report([8, 6, 3]), V, "the smallest is 4, got 6 units at index 1 (2 such of 3)"),
        (lambda: ONES.encode([1, np.nan]), V, "labels: expected no NaN, got nan at index 1 (1 such of 2)"),
        (lambda: ONES.encode([1], 1), V, "max_tokens: expected 2 to 2147483647, got 1"),
        (lambda: ONES.encode([1], 2.0), T, "max_tokens: expected an int, got float"),
        (lambda: ONES.encode([1], tolerance=1), V, "tolerance: expected a number in [0, 1), got 1"),
        (lambda: ONES.encode([1], tolerance=None), T, "tolerance: expected a number, got NoneType"),
        (lambda: ONES.encode([1], num_threads=0), V, "num_threads: expected at least 1, got 0"),
        (lambda: ONES.encode(torch.ones(1, device="meta")), T, "labels: expected a tensor with values, got a tensor on meta"),
        (lambda: ONES.decode([[3, 5]]), V, "tokens: expected 0 to 4, got 5 at index [0, 1]"),
        (lambda: ONES.decode([[-1]]), V, "tokens: expected 0 to 4, got -1 at index [0, 0]"),
        (lambda: ONES.decode([1.0]), T, "tokens: expected integers, got float64"),
        (lambda: ONES.decode([[3], [3, 4]]), V, "tokens: expected shape [..., T], got list"),
        (lambda: ValueVocabulary([2**53]).decode(np.full((2, 1024), 3)), V, f"sums below 2^63 units, got {2**63} at index [0]"),
        (lambda: ONES.decode(3), V, "tokens: expected shape [..., T], got []"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_what_came(host_backend, call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


def test_decoded_sums_are_exact_up_to_the_largest_int64():
    """Where float64 rounds them: 1024 times 2^53 - 1 is 2^63 - 1024."""
    vocabulary = ValueVocabulary([2**53 - 1, 1])
    most = np.array([3] * 1024 + [4] * 1023)
    assert vocabulary.decode(most) == 2**63 - 1
    assert vocabulary.decode([[*most, 0], [*most[::-1], 2]]).tolist() == [2**63 - 1, 2**63 - 1]
    for beyond in ([*most, 4], [4, *most]):
        with pytest.raises(ValueError, match=rf"^tokens: expected sums below 2\^63 units, got {2**63} at index \[1\]"):
            vocabulary.decode([[*most, 0], beyond])


def test_backends_are_listed_and_refused():
    for op in ("vocabulary_encode", "vocabulary_fit", "vocabulary_usage"):
        listed = ordkernels.available_backends(op)
        assert listed["reference"] == []
        assert "works on NumPy arrays" in listed["triton"][0]
    with ordkernels.use_backend("cuda"), pytest.raises(RuntimeError, match="vocabulary_fit cannot run on the backend 'cuda'"):
        ValueVocabulary.fit([1])


def test_torch_is_not_needed():
    code = "import sys; from ordkernels.vocabulary import ValueVocabulary as V; v = V.fit([1, 20]); v.decode(v.encode([20], 40)[0]); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(host_module() is None, reason="the compiled module is not built")
def test_the_compiled_module_checks_what_it_reads():
    host, y, v = host_module(), np.array([3, 4]), np.array([5, 1])
    for labels in ([-1], [2**60]):
        with pytest.raises(ValueError, match="labels: expected"):
            host.vocabulary_fit(np.array(labels), 0.9, 0.9, 0.9, 0.0, 1)
    for values in ([1, 5], [5, 5], [5, 0]):
        with pytest.raises(ValueError, match="values: expected falling"):
            host.vocabulary_encode(y, np.array(values), 0.0, 5, 1)
    with pytest.raises(ValueError, match="T: expected"):
        host.vocabulary_encode(y, v, 0.0, 0, 1)
    with pytest.raises(ValueError, match="tolerance: expected"):
        host.vocabulary_usage(y, v, float("nan"), 1)
    with pytest.raises(ValueError, match="labels: expected from 1"):
        host.vocabulary_fit(np.zeros(0, np.int64), 0.9, 0.9, 0.9, 0.0, 1)


# ---- real data: every label, with the vocabulary of the training labels


def real_labels(name):
    """(training labels, all labels, unit)."""
    if name == "kuairand":
        log = np.load(DATA / "kuairand_pure" / "interactions.npz")
        return log["play_time_ms"][log["split"] == 0], log["play_time_ms"], None
    train, test = (part["y"].numpy() for part in ordkernels.data.cdnow(target=name))
    return train, np.concatenate((train, test)), 0.01


@pytest.mark.skipif(not DATA.is_dir(), reason="bench/data is not part of this package")
@pytest.mark.parametrize("name", ["kuairand", "first_year", "holdout"])
def test_real_labels_round_trip(name):
    train, labels, unit = real_labels(name)
    vocabulary = ValueVocabulary.fit(train, unit=unit)
    units = np.rint(train.astype(np.float64) / (unit or 1)).astype(np.int64)
    assert vocabulary.values.tolist() == sorted({*authors(units), 1}, reverse=True)
    tokens, lengths, residual = vocabulary.encode(labels)
    error = np.abs(vocabulary.decode(tokens) - labels.astype(np.float64))
    rounding = 0 if unit is None else 1e-6 * labels + 1e-9  # labels are fp32
    assert (error <= 0.001 * labels + rounding).all()
    assert (np.abs(residual - error) <= rounding).all()
    assert ((lengths == 0) == (labels == 0)).all()
    for i in range(0, len(labels), 997):
        taken, _ = greedy(int(np.rint(labels[i] / np.float64(unit or 1))), vocabulary.values.tolist(), 0.001)
        assert lengths[i] == len(taken)
