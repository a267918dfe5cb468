"""XAUC against brute force, hand-made cases and scipy, on both backends."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from score_checks import HOSTILE, hostile

import ordkernels
from ordkernels import ops

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "reference"]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def brute_xauc(y, p, weight=None, group=None):
    """(concordant, tied, pairs) by looking at every pair."""
    weight, group = np.ones(len(y)) if weight is None else weight, np.zeros(len(y)) if group is None else group
    concordant = tied = pairs = 0.0
    for i, j in itertools.combinations(range(len(y)), 2):
        if y[i] == y[j] or group[i] != group[j]:
            continue
        w = weight[i] * weight[j]
        pairs += w
        tied += w * (p[i] == p[j])
        concordant += w * ((y[i] - y[j]) * (p[i] - p[j]) > 0)
    return concordant, tied, pairs


def weak_orders(n):
    """Every pattern of ties and order of n numbers, as rank vectors."""
    return [r for r in itertools.product(range(n), repeat=n) if set(r) == set(range(max(r) + 1))]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_xauc_on_every_pair_of_tie_patterns(n):
    for y, p in itertools.product(weak_orders(n), repeat=2):
        got = ops.xauc(np.array(y), np.array(p))
        concordant, tied, pairs = brute_xauc(y, p)
        assert (got.concordant, got.tied_prediction, got.pairs) == (concordant, tied, pairs)
        assert all(isinstance(c, int) for c in got[1:])
        if pairs:
            assert got.value == (concordant + tied / 2) / pairs
            assert ops.xauc(y, p, ties="strict").value == concordant / pairs
        else:
            assert math.isnan(got.value)


@pytest.mark.parametrize("n", [5, 6])
def test_xauc_on_tie_patterns_of_five_and_six(n, rng):
    # every pattern of the prediction, each with the y of one random other
    orders = weak_orders(n)
    for p in orders:
        y = orders[rng.integers(len(orders))]
        assert ops.xauc(y, p)[1:] == brute_xauc(y, p)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_and_groups(backend, rng):
    for trial in range(30):
        n = int(rng.integers(1, 40))
        y, p = rng.integers(0, 6, n), rng.integers(0, 5, n) / 4
        w, g = rng.random(n) * (rng.random(n) > 0.2), rng.integers(-2, 2, n) * (1 if trial % 2 else 10**17)
        with ordkernels.use_backend(backend):
            np.testing.assert_allclose(ops.xauc(y, p, weight=w, group=g)[1:], brute_xauc(y, p, w, g), atol=1e-12)
            assert ops.xauc(y, p, group=g)[1:] == brute_xauc(y, p, group=g)
            np.testing.assert_allclose(ops.xauc(y, p, weight=w)[1:], brute_xauc(y, p, w), atol=1e-12)
            of_groups = [ops.xauc(y[g == k], p[g == k], weight=w[g == k]).value for k in np.unique(g)]
            values = [v for v in of_groups if not math.isnan(v)]
            got = ops.xauc(y, p, weight=w, group=g).value
            assert got == pytest.approx(np.mean(values), abs=1e-12) if values else math.isnan(got)
            c, _, n_pairs = brute_xauc(y, p, w, g)
            if n_pairs:
                strict = ops.xauc(y, p, weight=w, group=g, ties="strict", average="pair")
                assert strict.value == pytest.approx(c / n_pairs, abs=1e-12)


@pytest.mark.native
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("n", [1, 2, 24, 33, 64, 65, 127, 128, 129, 1025, 40_000])
def test_xauc_of_hostile_rows_is_the_reference(kind, n, rng):
    y, p = hostile(kind, n, rng)
    w, g = rng.random(n), rng.integers(0, max(1, n // 40), n)
    for ties in ("half", "reference"):
        with ordkernels.use_backend("reference"):
            want = ops.xauc(y, p, ties=ties)
        assert all(same(ops.xauc(y, p, ties=ties, num_threads=t), want) for t in (1, 2))
    with ordkernels.use_backend("reference"):
        weighted, grouped = ops.xauc(y, p, weight=w), ops.xauc(y, p, group=g)
    one, two = (ops.xauc(y, p, weight=w, num_threads=t) for t in (1, 2))
    assert same(one, two)
    np.testing.assert_allclose(one, weighted, rtol=1e-11, atol=1e-11 * w.sum() ** 2)
    got = ops.xauc(y, p, group=g, num_threads=2)
    assert got[1:] == grouped[1:]
    assert got.value == pytest.approx(grouped.value, abs=1e-12, nan_ok=True)


def same(a, b):
    return a[1:] == b[1:] and (a.value == b.value or (math.isnan(a.value) and math.isnan(b.value)))


@pytest.mark.slow
@pytest.mark.native
def test_large_ranges_are_shared_by_threads(rng):
    """Above 2^20 rows all threads work on one range; the counts are a permutation's, known from its construction."""
    n = (1 << 20) + 12_345
    y = rng.permutation(n).astype(np.float32)
    for p, inversions in ((y, 0), (-y, n * (n - 1) // 2), (y + (y % 2 == 0) * np.float32(1.5), n // 2)):
        for threads in (1, 2):
            got = ops.xauc(y, p, num_threads=threads)
            assert (got.concordant, got.tied_prediction, got.pairs) == (n * (n - 1) // 2 - inversions, 0, n * (n - 1) // 2)
    w = np.full(n, 0.5)
    one, two = (ops.xauc(y, -(y // 2), weight=w, num_threads=t) for t in (1, 2))
    assert one == two
    assert one[1:] == pytest.approx((0, (n // 2) / 4, n * (n - 1) / 8), rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8])
def test_torch_path_counts_the_same(n, rng):
    """What CUDA tensors take, on CPU tensors; for every pattern of ties up to 4 rows, then random ones."""
    from ordkernels.scores.xauc_device import count

    orders = weak_orders(n) if n <= 4 else [list(rng.integers(0, n, n)) for _ in range(60)]
    for p in orders:
        y = orders[rng.integers(len(orders))]
        a, b = torch.tensor(np.array(y)), torch.tensor(np.array(p))
        concordant, tied, pairs = brute_xauc(y, p)
        both = sum(p[i] == p[j] and y[i] == y[j] for i, j in itertools.combinations(range(len(y)), 2))
        assert count(a, b, None, None, False)[0] == (concordant, tied, pairs, both)
    for _ in range(5):
        m = 30 * n
        y, p, g = torch.randint(0, 9, (m,)), torch.rand(m).mul(20).floor(), torch.randint(-3, 3, (m,)) * 10**15
        w = torch.rand(m, dtype=torch.float64)
        from ordkernels.scores.xauc import all_pairs, result

        forms = (("half", None, None), ("reference", None, None), ("strict", None, g), ("half", w, g), ("half", w, None))
        of_all = (("cwm", None, None), ("torchrec", None, None), ("torchrec", w, None), ("torchrec", None, g), ("torchrec", w, g))
        for ties, weight, group in forms + of_all:
            counts, sums = count(y, p, weight, group, ties in ("reference", "cwm"))
            everything = all_pairs(m, *(None if x is None else x.numpy() for x in (weight, group)))
            pairwise = ties == "torchrec"
            got = result(counts, None if pairwise else sums, ties, everything=everything)
            want = ops.xauc(y, p, ties=ties, weight=weight, group=group, average="pair" if pairwise else "group")
            assert all(isinstance(x, type(v)) for x, v in zip(got, want, strict=True))
            np.testing.assert_allclose(got, want, rtol=1e-12)


def test_reference_ties_follow_the_script(rng):
    for n in (2, 3, 30):
        y, p = rng.integers(0, 5, n).astype(float), rng.integers(0, 4, n).astype(float)
        by_prediction = sorted(range(n), key=lambda i: -p[i])  # Python's sort is stable
        labels = [y[i] for i in by_prediction]
        expected = sum(labels[i] > labels[j] for i, j in itertools.combinations(range(n), 2))
        got = ops.xauc(y, p, ties="reference")
        assert (got.concordant, got.pairs) == (expected, n * (n - 1) // 2)
        assert got.value == expected / got.pairs


def nearest(x):
    try:
        return float(x)
    except OverflowError:
        return math.inf


def torchrec_counts(y, p, weight):
    """TorchRec's sums for one batch: of the pairs in the same order or tied in both, and of all pairs; looking at every pair."""
    found = everything = Fraction(0)
    for i, j in itertools.combinations(range(len(y)), 2):
        w = Fraction(float(weight[i])) * Fraction(float(weight[j]))
        everything += w
        found += w * (np.sign(y[i] - y[j]) == np.sign(p[i] - p[j]))
    return found, everything


@pytest.mark.parametrize("backend", BACKENDS)
def test_torchrec_ties_within_batches(backend, rng):
    with ordkernels.use_backend(backend):
        for trial in range(30):
            n = int(rng.integers(1, 40))
            y, p = rng.integers(0, 6, n), rng.integers(0, 5, n) / 4
            w, batch = rng.random(n) * (rng.random(n) > 0.2) * 10.0 ** rng.integers(-160, 160, n), rng.integers(0, 3, n)
            for weight in (np.ones(n), w, np.full(n, 1e-200)):
                each = [torchrec_counts(y[batch == b], p[batch == b], weight[batch == b]) for b in np.unique(batch)]
                want = [torchrec_counts(y, p, weight), tuple(map(sum, zip(*each, strict=True)))]
                got = [ops.xauc(y, p, weight=weight, ties="torchrec", group=g, average="pair") for g in (None, batch)]
                for (found, everything), result in zip(want, got, strict=True):
                    assert result.value == pytest.approx(float(found / everything) if everything else 0.0, rel=1e-12), trial
                    assert result.pairs == pytest.approx(nearest(everything), rel=1e-12)
            unweighted = ops.xauc(y, p, ties="torchrec")
            both = sum(y[i] == y[j] and p[i] == p[j] for i, j in itertools.combinations(range(n), 2))
            assert unweighted[1:] == (brute_xauc(y, p)[0], both, n * (n - 1) // 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cwm_ties_follow_the_script(backend, rng):
    with ordkernels.use_backend(backend):
        assert ops.xauc([3.0], [1.0], ties="cwm").value == 1
        for n in (2, 3, 30):
            y, p = rng.integers(0, 5, n).astype(float), rng.integers(0, 4, n).astype(float)
            labels = [y[i] for i in sorted(range(n), key=lambda i: -p[i])]  # Python's sort is stable
            expected = sum(labels[i] >= labels[j] for i, j in itertools.combinations(range(n), 2))
            got = ops.xauc(y, p, ties="cwm")
            assert (got.concordant, got.pairs) == (expected, n * (n - 1) // 2)
            assert got.value == expected / got.pairs


@pytest.mark.parametrize("n", [127, 128, 129, 1000, 20_000])
def test_xauc_against_kendall(n, rng):
    stats = pytest.importorskip("scipy.stats")
    y, p = rng.permutation(n), rng.permutation(n)  # no ties: tau = 2 xauc - 1
    assert ops.xauc(y, p).value == pytest.approx((stats.kendalltau(y, p).statistic + 1) / 2, abs=1e-12)
    # with ties: Somers' D of the prediction given y leaves out pairs tied in y and halves those tied in the prediction
    if n <= 1000:
        y, p = rng.integers(0, 30, n), rng.integers(0, 20, n)
        assert ops.xauc(y, p).value == pytest.approx((stats.somersd(y, p).statistic + 1) / 2, abs=1e-12)


def test_counts_are_exact_beyond_32_bits():
    n = 133_545
    got = ops.xauc(np.arange(n), np.arange(n) // 2)
    assert got.pairs == n * (n - 1) // 2
    assert got.tied_prediction == n // 2
    assert got.concordant == got.pairs - n // 2
    assert ops.xauc(np.arange(n), -np.arange(n)).concordant == 0


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.xauc([1, 2], [1, 2], ties="both"), ValueError, "ties: expected 'half', .* or 'torchrec', got 'both'"),
        (lambda: ops.xauc([1, 2], [1, 2], weight=[1, -2]), ValueError, "weight: expected numbers of at least 0, got -2.0 at index 1"),
        (lambda: ops.xauc([1, 2], [1, 2], group=[0.5, 1]), TypeError, "group: expected integers, got float64"),
        (lambda: ops.xauc([1, 2], [1, 2], group=[0, 1], ties="reference"), ValueError, "group: expected None with ties='reference'"),
        (lambda: ops.xauc([1, 2], [1, 2], weight=[0, 1], ties="cwm"), ValueError, "weight: expected None with ties='cwm'"),
        (lambda: ops.xauc([1, 2], [1, 2], group=[0, 1], ties="torchrec"), ValueError, "average: expected 'pair' with ties='torchrec'"),
        (lambda: ops.xauc([1, 2], [1, 2], weight=[1, float("inf")]), ValueError, "weight: expected finite numbers, got inf at index 1"),
        (lambda: ops.xauc([1, 2], [1, 2], average="user"), ValueError, "average: expected 'group' or 'pair', got 'user'"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.native
def test_backends_say_what_there_is():
    found = ordkernels.available_backends("xauc")
    assert found["reference"] == []
    assert found["triton"] == found["cuda"] == ["xauc works on NumPy arrays on the CPU, and on CUDA tensors by torch's own sorts"]
    assert ordkernels.available_backends("mae")["triton"] == ["mae works on NumPy arrays on the CPU"]
    with ordkernels.use_backend("triton"), pytest.raises(RuntimeError, match="xauc cannot run on the backend 'triton': xauc works on"):
        ops.xauc([1, 2], [1, 2])
    for backend in ("cpu", "reference"):
        with ordkernels.use_backend(backend):
            assert ops.xauc([1, 2], [1, 2]).value == 1


def test_device_tensors_are_known_by_their_device():
    from torch._subclasses import FakeTensorMode

    from ordkernels.scores.xauc import _on_device

    with FakeTensorMode():
        gpu, cpu = torch.empty(3, device="cuda"), torch.empty(3)
    meta = torch.empty(3, device="meta")
    assert _on_device(gpu, None, gpu)
    assert not any(_on_device(*columns) for columns in ((cpu, cpu), (meta, meta), (gpu, cpu), (gpu, [1, 2, 3])))
