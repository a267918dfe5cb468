"""Scores against brute force, hand-made cases, and scipy and scikit-learn where they say the same thing."""

import itertools
import math

import numpy as np
import pytest
import torch

import ordkernels
from ordkernels import ops


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


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_weights_and_groups(rng):
    for _ in range(30):
        n = int(rng.integers(1, 40))
        y, p = rng.integers(0, 6, n), rng.integers(0, 5, n) / 4
        w, g = rng.random(n) * (rng.random(n) > 0.2), rng.integers(-2, 2, n)
        np.testing.assert_allclose(ops.xauc(y, p, weight=w, group=g)[1:], brute_xauc(y, p, w, g), atol=1e-12)
        assert ops.xauc(y, p, group=g)[1:] == brute_xauc(y, p, group=g)
        np.testing.assert_allclose(ops.xauc(y, p, weight=w)[1:], brute_xauc(y, p, w), atol=1e-12)


def test_reference_ties_follow_the_script(rng):
    for n in (2, 3, 30):
        y, p = rng.integers(0, 5, n).astype(float), rng.integers(0, 4, n).astype(float)
        by_prediction = sorted(range(n), key=lambda i: -p[i])  # Python's sort is stable
        labels = [y[i] for i in by_prediction]
        expected = sum(labels[i] > labels[j] for i, j in itertools.combinations(range(n), 2))
        got = ops.xauc(y, p, ties="reference")
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


def test_auc_and_relaimpr(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    y, p, w = rng.integers(0, 2, 200), rng.integers(0, 9, 200) / 8, rng.random(200)
    assert ops.auc(y, p) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert ops.auc(y, p, weight=w) == pytest.approx(metrics.roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    assert ops.relaimpr(0.75, 0.7) == pytest.approx(0.25)


def test_errors_and_correlations(rng):
    y, p = rng.random(50), rng.integers(0, 10, 50)
    assert ops.mae(y, p) == pytest.approx(np.mean(np.abs(y - p)))
    assert ops.rmse(y, p) == pytest.approx(np.mean((y - p) ** 2) ** 0.5)
    assert ops.cumulative_score(y, p, 2.0) == pytest.approx(np.mean(np.abs(y - p) <= 2))
    stats = pytest.importorskip("scipy.stats")
    assert ops.lcc(y, p) == pytest.approx(stats.pearsonr(y, p).statistic)
    assert ops.srcc(y, p) == pytest.approx(stats.spearmanr(y, p).statistic)
    assert math.isnan(ops.lcc(y, np.ones(50)))


@pytest.mark.parametrize("like", [list, np.asarray, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)])
def test_takes_lists_arrays_and_tensors(like):
    assert ops.mae(like([1.0, 4.0]), like([2.0, 1.0])) == 2.0
    assert ops.xauc(like([1.0, 4.0]), like([2.0, 1.0])).value == 0.0
    assert ops.crps(like([[0.0, 2.0], [1.0, 1.0]]), like([1.0, 3.0])).tolist() == [0.5, 2.0]


# ----------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("L", [2, 3, 20, 129])
def test_crps_by_definition(L, fair):
    torch.manual_seed(L)
    s, y = torch.randn(7, L, dtype=torch.float64).round(decimals=1) + 1e6, torch.randn(7, dtype=torch.float64) + 1e6
    spread = (s[:, :, None] - s[:, None, :]).abs().sum((1, 2)) / (L * (L - fair))
    expected = (s - y[:, None]).abs().mean(1) - spread / 2
    torch.testing.assert_close(ops.crps(s, y, fair=fair), expected, rtol=0, atol=1e-9)
    numpy_out = ops.crps(s.numpy(), y.numpy(), fair=fair)
    assert isinstance(numpy_out, np.ndarray)
    assert numpy_out.tolist() == ops.crps(s, y, fair=fair).tolist()


def test_crps_of_one_draw_is_the_absolute_error():
    assert ops.crps(torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 1.5])).tolist() == [2.0, 0.5]


def test_crps_and_pinball_have_gradients():
    torch.manual_seed(0)
    s, y = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(4, dtype=torch.float64, requires_grad=True)
    levels = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    for fair in (False, True):
        assert torch.autograd.gradcheck(lambda s, y, fair=fair: ops.crps(s, y, fair=fair), (s, y))
    assert torch.autograd.gradcheck(lambda s, y: ops.pinball(s, y, levels), (s, y))


def test_crps_keeps_a_nan_in_its_row_in_training():
    s = torch.tensor([[1.0, math.nan], [1.0, 2.0]], requires_grad=True)
    out = ops.crps(s, torch.tensor([1.0, 1.0]))
    assert out.isnan().tolist() == [True, False]


def test_fair_crps_is_unbiased():
    # of two draws from Bernoulli(1/2), y = 0: the expectation over all draws is the CRPS of the distribution, 1/4
    draws = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    assert ops.crps(draws, torch.zeros(4), fair=True).mean() == 0.25


def test_pinball_and_coverage_by_hand():
    assert ops.pinball([[1.0, 4.0]], [3.0], [0.25, 0.25]).tolist() == [[0.5, 0.75]]
    assert ops.coverage([0, 1, 2], [2, 2, 2], [2, 3, 2]) == (2 / 3, 1.0)


def test_jsd_by_hand():
    # group 1: all mass in different bins: log 2; group 2: (1/2, 1/2) against (1, 0)
    y, p, g = [0, 0, 0, 9], [9, 9, 0, 0], [1, 1, 2, 2]
    half = 0.5 * (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)) + 0.5 * math.log2(1 / 0.75)
    assert ops.histogram_jsd(y, p, g, edges=[0, 5, 9], base=2) == pytest.approx((1 + half) / 2, abs=1e-15)
    assert ops.histogram_jsd(y, p, g, edges=[0, 5, 9]) == pytest.approx((1 + half) / 2 * math.log(2), abs=1e-15)


def test_jsd_end_bins_are_open_and_bins_closed_on_the_left():
    assert ops.histogram_jsd([-50, 50], [0.5, 1.5], [0, 0], edges=[0, 1, 2]) == 0
    assert ops.histogram_jsd([1.0], [1.5], [3], edges=[0, 1, 2]) == 0
    assert ops.histogram_jsd([1.0], [0.5], [3], edges=[0, 1, 2], base=2) == 1


def test_jsd_against_scipy(rng):
    distance = pytest.importorskip("scipy.spatial.distance")
    n, edges = 500, np.linspace(0, 1, 8)
    y, p, g = rng.random(n), rng.random(n) ** 2, rng.integers(0, 9, n) * 1000
    each = [distance.jensenshannon(np.histogram(y[g == k], edges)[0], np.histogram(p[g == k], edges)[0], base=2) ** 2 for k in np.unique(g)]
    assert ops.histogram_jsd(y, p, g, edges=edges, base=2) == pytest.approx(np.mean(each), abs=1e-12)


# ------------------------------------------------------------------------------------------------------ errors


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.mae([], []), ValueError, "y: expected at least one row, got none"),
        (lambda: ops.mae([1.0], [1.0, 2.0]), ValueError, r"prediction: expected shape \[N\] = \[1\], as y, got \[2\]"),
        (lambda: ops.mae([[1.0]], [1.0]), ValueError, r"y: expected shape \[N\], got \[1, 1\]"),
        (lambda: ops.rmse([1, 2.0, 3], [1, NAN, NAN]), ValueError, "prediction: expected no NaN, got 2 of 3, the first at index 1"),
        (lambda: ops.mae(["a"], [1.0]), TypeError, "y: expected numbers, got <U1"),
        (lambda: ops.xauc([1, 2], [1, 2], ties="both"), ValueError, "ties: expected 'half', 'strict' or 'reference', got 'both'"),
        (lambda: ops.xauc([1, 2], [1, 2], weight=[1, -2]), ValueError, "weight: expected numbers of at least 0, got -2.0 at index 1"),
        (lambda: ops.xauc([1, 2], [1, 2], group=[0.5, 1]), TypeError, "group: expected integers, got float64"),
        (lambda: ops.xauc([1, 2], [1, 2], group=[0, 1], ties="reference"), ValueError, "group: expected None with ties='reference'"),
        (lambda: ops.auc([0, 2], [0.1, 0.2]), ValueError, "y: expected labels 0 and 1, got 2.0 at index 1"),
        (lambda: ops.auc([1, 1], [0.1, 0.2]), ValueError, "y: expected both labels 0 and 1, got only 1"),
        (lambda: ops.relaimpr(0.6, 0.5), ValueError, "base: expected an AUC other than 0.5"),
        (lambda: ops.cumulative_score([1], [1], -1), ValueError, "theta: expected a number of at least 0, got -1"),
        (lambda: ops.histogram_jsd([1], [1], [0], edges=[0, 1, 1]), ValueError, "edges: expected rising numbers, got 1.0 at index 2 after"),
        (lambda: ops.histogram_jsd([1], [1], [0], edges=[0]), ValueError, "edges: expected at least 2, got 1"),
        (lambda: ops.histogram_jsd([1], [1], [0], edges=[0, 1], base=1), ValueError, "base: expected a number above 1, got 1"),
        (lambda: ops.crps([[1.0]], [1.0], fair=True), ValueError, r"samples: expected \[B, L\] with L at least 2, got \[1, 1\]"),
        (lambda: ops.crps([[1.0]], [1.0, 2.0]), ValueError, r"y: expected \[B\] = \[1\], got \[2\]"),
        (lambda: ops.crps([[1.0], [NAN]], [1.0, 2.0]), ValueError, "samples: expected no NaN, got it in 1 of 2 rows, the first at index 1"),
        (lambda: ops.crps([[1.0], [2.0]], [1.0, NAN]), ValueError, "y: expected no NaN, got it in 1 of 2 rows, the first at index 1"),
        (lambda: ops.pinball([[1.0]], [1.0], [2]), ValueError, r"levels: expected numbers in \[0, 1\], got 2.0 at index 0"),
        (lambda: ops.pinball([[1.0]], [1.0], [0.1, 0.2]), ValueError, r"q: expected \[B, L\] with L = 2, as levels, got \[1, 1\]"),
        (lambda: ops.coverage([0, 3], [1, 1], [0, 0]), ValueError, "lower: expected at most upper, got 3.0 above 1.0 at index 1"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_backends_say_what_there_is_OLD():
    found = ordkernels.available_backends("xauc")
    assert found["reference"] == []
    assert "no native CPU kernel" in found["cpu"][0]
    with ordkernels.use_backend("cpu"), pytest.raises(RuntimeError, match="xauc cannot run on the backend 'cpu': xauc has no native"):
        ops.xauc([1, 2], [1, 2])
    with ordkernels.use_backend("reference"):
        assert ops.xauc([1, 2], [1, 2]).value == 1
