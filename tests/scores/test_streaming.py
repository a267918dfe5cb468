"""Accumulators: a whole from its chunks and merged parts, against the scores of all rows at once; properties of the scores."""

import itertools
import math

import numpy as np
import pytest

import ordkernels
from ordkernels import ops, scores
from ordkernels.reference import histogram_jsd as reference
from ordkernels.scores import streaming as stream

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EDGES = [-2.0, -0.5, 0.0, 0.7, 3.0]


def rows(n, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    y = rng.normal(1, 2, n).astype(dtype)
    return y, (y + rng.normal(0, 1, n)).astype(dtype), rng.integers(-3, max(1, n // 20), n)


MAKERS = {
    "errors": (lambda: stream.Errors(thetas=(0.5, 2)), lambda a, y, p, g: a.update(y, p)),
    "coverage": (stream.Coverage, lambda a, y, p, g: a.update(np.minimum(y, p), np.maximum(y, p), y * 0.9)),
    "crps": (lambda: stream.SampleScores(fair=True), lambda a, y, p, g: a.update(np.stack((p, p + 1, p - 2), 1), y)),
    "pinball": (lambda: stream.SampleScores(levels=[0.1, 0.6]), lambda a, y, p, g: a.update(np.stack((p - 1, p), 1), y)),
    "jsd": (lambda: stream.GroupedJSD(EDGES, base=2), lambda a, y, p, g: a.update(y, p, g)),
    "xauc": (lambda: stream.BinnedXAUC(EDGES, EDGES), lambda a, y, p, g: a.update(y, p)),
}


def flat(result):
    return np.array(list(result.values()) if isinstance(result, dict) else result, dtype=np.float64).ravel()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("n", [1, 2, 50, 3000])
def test_chunks_merge_to_the_whole(name, n, host_backend):
    make, update = MAKERS[name]
    y, p, g = rows(n)
    whole = update(make(), y, p, g)
    cuts = [0, n // 7, n // 7, n // 2, n]  # an empty chunk too
    parts = [update(make(), y[a:b], p[a:b], g[a:b]) for a, b in itertools.pairwise(cuts)]
    chunked = make()
    for a, b in itertools.pairwise(cuts):
        update(chunked, y[a:b], p[a:b], g[a:b])
    left = make().merge(parts[0]).merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[2].merge(parts[3]).merge(make().load_state(parts[0].state()).merge(parts[1]))
    for other in (chunked, left, right):
        np.testing.assert_allclose(flat(other.result()), flat(whole.result()), rtol=1e-12, atol=1e-14)
        for k, v in whole.state().items():
            assert other.state()[k].dtype == v.dtype
            if v.dtype.kind == "i":
                np.testing.assert_array_equal(other.state()[k], v)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_the_scores_of_all_rows(dtype, host_backend):
    y, p, g = rows(2000, dtype=dtype)
    found = stream.Errors(thetas=(0.5, 2)).update(y, p).result()
    want = {"mae": ops.mae(y, p), "rmse": ops.rmse(y, p), "lcc": ops.lcc(y, p)}
    want |= {"cs@0.5": ops.cumulative_score(y, p, 0.5), "cs@2": ops.cumulative_score(y, p, 2)}
    assert found == pytest.approx(want, rel=1e-12)
    low, high = np.minimum(y, p), np.maximum(y, p)
    assert stream.Coverage().update(low, high, p - 1).result() == pytest.approx(ops.coverage(low, high, p - 1), rel=1e-12)
    s = np.stack((p, p + 1, p - 2), 1).astype(np.float64)
    for fair in (False, True):
        mean = stream.SampleScores(fair=fair).update(s, y.astype(np.float64)).result()
        assert mean == pytest.approx(float(ops.crps(s, y.astype(np.float64), fair=fair).mean()), rel=1e-12)
    np.testing.assert_allclose(
        stream.SampleScores(levels=[0.1, 0.5, 0.9]).update(s, y).result(),
        ops.pinball(s, y.astype(np.float64), [0.1, 0.5, 0.9]).mean(0), rtol=1e-12,
    )  # fmt: skip
    assert stream.GroupedJSD(EDGES).update(y, p, g).result() == pytest.approx(ops.histogram_jsd(y, p, g, edges=EDGES), rel=1e-12)


def test_sums_do_not_drift(host_backend):
    e = stream.Errors()
    for _ in range(2000):
        e.update([0.1], [0.0])
    assert e.result()["mae"] == pytest.approx(0.1, rel=1e-15)
    constant = stream.Errors()
    for _ in range(7):
        constant.update(np.full(10, 0.1), np.arange(10.0))
    assert math.isnan(constant.result()["lcc"])


@pytest.mark.parametrize("bins", [1, 2, 7, 300])
@pytest.mark.parametrize("kind", ["continuous", "integers", "constant"])
def test_binned_xauc_keeps_its_bound(bins, kind, host_backend):
    y, p, _ = rows(4000, seed=bins)
    if kind == "integers":
        y, p = np.floor(y), np.floor(2 * p)
    elif kind == "constant":
        p = np.full_like(p, 1.5)
    edges = [np.unique(np.quantile(x, np.linspace(0, 1, bins + 1))) for x in (y, p)]
    edges = [e if len(e) > 1 else np.array([e[0], e[0] + 1]) for e in edges]
    got = stream.BinnedXAUC(*edges).update(y, p).result()
    exact = ops.xauc(y, p).value
    assert got.low - 1e-15 <= exact <= got.high + 1e-15
    assert abs(exact - got.value) <= got.bound + 1e-15
    if bins == 300 and kind == "continuous":
        assert got.bound < 0.01


def test_a_bin_for_every_value_is_exact(host_backend):
    rng = np.random.default_rng(0)
    y, p = rng.permutation(40), rng.permutation(40)
    got = stream.BinnedXAUC(np.arange(41), np.arange(41)).update(y, p).result()
    assert got.value == ops.xauc(y, p).value
    assert got.bound == 0


# ----------------------------------------------------------------------------------------------------- properties


numbers = st.floats(-1e6, 1e6, width=32) | st.integers(-3, 3).map(float)
columns = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.lists(numbers, min_size=n, max_size=n) for _ in range(2)), st.integers(0, 2**32 - 1))
)


@settings(max_examples=60, deadline=None)
@given(columns)
def test_order_of_rows_and_monotone_maps_do_not_matter(data):
    y, p, seed = np.array(data[0]), np.array(data[1]), data[2]
    order = np.random.default_rng(seed).permutation(len(y))
    result = ops.xauc(y, p)
    assert ops.xauc(y[order], p[order])[1:] == result[1:]
    assert ops.xauc(np.arctan(y / 1e6) if len(np.unique(np.arctan(y / 1e6))) == len(np.unique(y)) else y, 8 * p)[1:] == result[1:]
    for f in (ops.srcc, ops.lcc, ops.mae, ops.rmse):
        assert f(y[order], p[order]) == pytest.approx(f(y, p), rel=1e-9, abs=1e-9, nan_ok=True)
    assert ops.srcc(y, 8 * p) == pytest.approx(ops.srcc(y, p), abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(columns)
def test_a_flipped_sign_is_the_complement(data):
    y, p = np.array(data[0]), np.array(data[1])
    a, b = ops.xauc(y, p), ops.xauc(y, -p)
    assert a.pairs == b.pairs
    assert a.tied_prediction == b.tied_prediction
    assert a.concordant + b.concordant + a.tied_prediction == a.pairs
    if a.pairs:
        assert a.value + b.value == pytest.approx(1, abs=1e-12)
    assert ops.srcc(y, -p) == pytest.approx(-ops.srcc(y, p), abs=1e-12, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(columns, st.integers(0, 60))
def test_merge_of_any_split_is_the_whole(data, cut):
    y, p, seed = np.array(data[0]), np.array(data[1]), data[2]
    g, cut = np.random.default_rng(seed).integers(-2, 3, len(y)), min(cut, len(y))
    for make, update in MAKERS.values():
        a, b, whole = (update(make(), y[s], p[s], g[s]) for s in (slice(cut), slice(cut, None), slice(None)))
        for k, v in a.merge(b).state().items():
            if v.dtype.kind == "i":
                np.testing.assert_array_equal(v, whole.state()[k])
        scale = max(1.0, np.abs(y).max(), np.abs(p).max())
        np.testing.assert_allclose(flat(a.result()), flat(whole.result()), rtol=1e-9, atol=1e-12 * scale)


def test_reference_divergence_is_one_for_disjoint_histograms():
    assert reference.divergences(np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]])) == pytest.approx([math.log(2)])


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: stream.Errors().result(), ValueError, "result: expected at least one row in all updates, got none"),
        (lambda: stream.Errors(thetas=(-1,)), ValueError, "thetas: expected a number of at least 0, got -1"),
        (lambda: stream.Errors().update([1.0, math.nan], [1, 2]), ValueError, "y: expected no NaN, got 1 of 2, the first at index 1"),
        (lambda: stream.Errors().update([1.0], [math.inf]), ValueError, "prediction: expected finite numbers, got inf at index 0"),
        (lambda: stream.Errors().update([], [1.0]), ValueError, r"prediction: expected shape \[N\] = \[0\], as y, got \[1\]"),
        (lambda: stream.Errors().merge(stream.Coverage()), TypeError, "other: expected Errors, got Coverage"),
        (lambda: stream.Errors((1,)).merge(stream.Errors((2,))), ValueError, "other: expected the same thetas"),
        (lambda: stream.Errors().load_state({}), ValueError, "state: expected _n, _sums, _moments, _within, got no _n"),
        (lambda: stream.Coverage().update([2.0], [1.0], [1.0]), ValueError, "lower: expected at most upper, got 2.0 above 1.0 at index 0"),
        (lambda: stream.SampleScores(fair=True).update([[1.0]], [1.0]), ValueError, r"samples: expected \[N, L\] with L at least 2"),
        (lambda: stream.SampleScores(levels=[2]), ValueError, r"levels: expected numbers in \[0, 1\], got 2.0 at index 0"),
        (lambda: stream.SampleScores().update([[1.0]], [1.0, 2.0]), ValueError, r"y: expected shape \[N\] = \[1\], as samples, got \[2\]"),
        (lambda: stream.GroupedJSD([0, 0]), ValueError, "edges: expected strictly ascending numbers"),
        (lambda: stream.GroupedJSD([0, 1]).update([1], [1], [0.5]), TypeError, "group: expected integers, got float64"),
        (lambda: stream.BinnedXAUC([0], [0, 1]), ValueError, "y_edges: expected at least 2, got 1"),
        (
            lambda: stream.BinnedXAUC([0, 1], [0, 1]).update(["a"], [1]),
            TypeError,
            "y: expected integers or floats of .* got <U1",
        ),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_no_torch_is_needed():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None; import ordkernels; from ordkernels import scores, scores_stream;"
        "print(scores.xauc([1, 2], [1, 2]).value, scores_stream.Errors().update([1, 2], [1, 3]).result()['mae'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["1.0", "0.5"], out.stderr
    assert scores.xauc is ops.xauc


def test_the_reference_calls_no_compiled_kernel(monkeypatch):
    called = []

    class Spy:
        def __getattr__(self, name):
            called.append(name)
            raise AssertionError

    monkeypatch.setattr(ordkernels._backend, "host_module", Spy)
    for make, update in MAKERS.values():
        with ordkernels.use_backend("reference"):
            update(make(), *rows(50)).result()
    assert not called
    with ordkernels.use_backend("cpu"), pytest.raises(AssertionError):
        stream.Errors().update([1.0], [2.0])
    assert called == ["errors"]


def test_a_forced_backend_that_cannot_run_says_why():
    for name, (make, update) in MAKERS.items():
        if name in ("crps", "pinball"):  # NumPy on every backend
            continue
        with ordkernels.use_backend("triton"), pytest.raises(RuntimeError, match=r"cannot run on the backend 'triton': .* NumPy arrays"):
            update(make(), *rows(5))


def test_a_state_whose_parts_do_not_fit_is_refused_and_changes_nothing():
    jsd = stream.GroupedJSD(EDGES).update([0.0, 1.0], [1.0, 1.0], [1, 2])
    before = jsd.result()
    with pytest.raises(ValueError, match=r"state\['_counts'\]: expected shape \[5, 2, 4\], got \[2, 2, 4\]"):
        jsd.load_state({**jsd.state(), "_ids": np.arange(5)})
    assert jsd.result() == before


def test_samples_of_bfloat16_and_ragged_lists():
    torch = pytest.importorskip("torch")
    assert stream.SampleScores().update(torch.tensor([[0.0, 2.0]]).bfloat16(), torch.tensor([1.0]).bfloat16()).result() == 0.5
    with pytest.raises(ValueError, match="samples: expected shape"):
        stream.SampleScores().update([[1.0], [1.0, 2.0]], [1.0, 2.0])
