"""The histogram divergence by hand, against scipy and NumPy, and compiled against the reference."""

import math

import numpy as np
import pytest
from score_checks import check_compiled

import ordkernels
from ordkernels import ops
from ordkernels.reference import histogram_jsd as reference

AWKWARD = [[0, 1], [-1e308, 0, 1e308], [0, 1, np.inf], [-np.inf, 0, 1], [0, 1e-300, 2e-300, 1], [1, 1 + 2**-52, 1 + 2**-51, 9]]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.native
@pytest.mark.parametrize("edges", AWKWARD, ids=str)
def test_bins_of_awkward_edges(edges, rng):
    x = np.concatenate((np.array(edges), np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf), rng.normal(size=50), [np.inf, -np.inf]))
    y, p, g = rng.permutation(x), rng.permutation(x), rng.integers(0, 3, len(x))
    with ordkernels.use_backend("reference"):
        want = ops.histogram_jsd(y, p, g, edges=edges)
    assert ops.histogram_jsd(y, p, g, edges=edges) == pytest.approx(want, abs=1e-14)


@pytest.mark.native
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_compiled_is_the_reference(dtype, rng):
    for n in (1, 7, 8, 9, 1023, 1025, 70_000):
        y, p = (rng.normal(3, 5, n).astype(dtype) for _ in range(2))
        g = rng.integers(-5, max(1, n // 30), n) * (1 if n % 2 else 10**15)
        check_compiled(ops.histogram_jsd, y, p, g, edges=np.sort(rng.normal(3, 4, int(rng.integers(2, 90)))))


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "edges",
    [
        np.linspace(0, 1, 51),
        np.r_[0, np.cumsum(np.geomspace(1e-9, 1, 40))],  # closer than the grid tells apart, and than float32 does
        [0.25, 0.5],  # one bin
        [0, 0.5, 1],
        [-np.inf, 0.1, 0.1000000001, np.inf],
        [-1e300, 0.3, 1e300],
    ],
    ids=["even", "geometric", "one", "two", "infinite", "huge"],
)
def test_a_histograms_bins_are_those_of_searchsorted(dtype, edges):
    rng = np.random.default_rng(0)
    edges = np.asarray(edges, np.float64)
    y, p = (np.r_[rng.random(200_000), edges[np.isfinite(edges)]].astype(dtype) for _ in range(2))
    p[:1000] = rng.permutation(p)[:1000]
    p[:2] = np.inf, -np.inf
    group = np.where(rng.random(len(y)) < 0.4, 7, rng.integers(-3000, 3000, len(y)))  # one group beyond 2^16 rows
    expected = reference.histogram_jsd(y, p, group, edges, math.e)
    for ids in (group, group * 10**14):  # dense, and so far apart that slots go by rank
        assert ops.histogram_jsd(y, p, ids, edges=edges, num_threads=2) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    p[77] = np.nan
    with pytest.raises(ValueError, match=r"prediction: expected no NaN, got 1 of .*index 77"):
        ops.histogram_jsd(y, p, group, edges=edges)


def divergence_of_occupied_bins(y, p, group, edges):
    """The mean divergence over groups, from the bins that hold rows alone: the reference's table has groups x bins cells."""
    g, M = np.unique(group, return_inverse=True)[1], len(edges) - 1
    cells = [g * M + np.searchsorted(edges[1:-1], x, side="right") for x in (y, p)]
    occupied = np.unique(np.concatenate(cells))
    rows = np.bincount(g)
    of_group = occupied // M
    shares = [np.bincount(np.searchsorted(occupied, c), minlength=len(occupied)) / rows[of_group] for c in cells]
    middle = (shares[0] + shares[1]) / 2
    terms = sum(np.where(x > 0, x * np.log(np.where(x > 0, x, 1) / middle), 0) for x in shares) / 2
    return np.bincount(of_group, weights=terms).mean()


@pytest.mark.parametrize(
    "group",
    [
        lambda n, rng: np.sort(rng.integers(0, 5_000, n)),  # every chunk of rows has other groups
        lambda n, rng: rng.integers(-5_000, 5_000, n),  # more parts than a chunk keeps apart
        lambda n, rng: np.where(np.arange(n) < n - 5, 3, np.iinfo(np.int64).max),
        lambda n, rng: rng.choice([np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max], n),
    ],
    ids=["sorted", "many", "one far off", "extreme"],
)
def test_a_histograms_groups_may_lie_anywhere(group, rng):
    n, edges = 70_000, np.linspace(0, 1, 3001)  # of so many bins, 16 groups fill a table
    y, p, ids = rng.random(n), rng.random(n), group(n, rng)
    expected = divergence_of_occupied_bins(y, p, ids, edges)
    if len(np.unique(ids)) < 10:
        assert expected == pytest.approx(reference.histogram_jsd(y, p, ids, edges, math.e), rel=1e-12)
    for threads in (1, 2):
        assert ops.histogram_jsd(y, p, ids, edges=edges, num_threads=threads) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: ops.histogram_jsd([1], [1], [0], edges=[0, 1, 1]),
            ValueError,
            "edges: expected strictly ascending numbers, got 1.0 at index 2",
        ),
        (lambda: ops.histogram_jsd([1], [1], [0], edges=[0]), ValueError, "edges: expected at least 2, got 1"),
        (lambda: ops.histogram_jsd([1], [1], [0], edges=[0, 1], base=1), ValueError, "base: expected a number above 1, got 1"),
        (lambda: ops.histogram_jsd([1], [1], [0], edges=[0, 1], base=np.inf), ValueError, "base: expected a finite number, got inf"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
