"""Scores of numbers of any magnitude, and of whole numbers that fp64 rounds, against rational arithmetic; one call and in chunks."""

import math
from fractions import Fraction

import numpy as np
import pytest

import ordkernels
from ordkernels import scores
from ordkernels.scores.streaming import Coverage, Errors, GroupedJSD

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "reference"]
SCALES = (5e-324, 1e-310, 1e-200, 1e-170, 1e-30, 1.0, 1e30, 1e154, 1e200, 1e307)


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ordkernels.use_backend(request.param):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def square_root(x):
    """Of a fraction, as the nearest float or so."""
    if not x:
        return 0.0
    e = 2 * ((x.numerator.bit_length() - x.denominator.bit_length()) // 2 - 40)
    return math.ldexp(math.sqrt(float(x / Fraction(2) ** e)), e // 2)


def exact(y, p):
    """(mae, rmse, lcc) in fractions, rounded at the end."""
    y, p = ([Fraction(int(v) if isinstance(v, np.integer) else float(v)) for v in x] for x in (y, p))
    n = len(y)
    d = [a - b for a, b in zip(y, p, strict=True)]
    u, v = ([a - sum(x) / n for a in x] for x in (y, p))
    yy, pp, yp = (sum(a * b for a, b in zip(s, t, strict=True)) for s, t in ((u, u), (v, v), (u, v)))
    sign = 1 if yp > 0 else -1
    lcc = sign * square_root(yp * yp / (yy * pp)) if yy and pp else math.nan
    return float(sum(map(abs, d)) / n), square_root(sum(a * a for a in d) / n), lcc


def in_chunks(y, p, rng):
    e = Errors()
    for rows in np.array_split(np.arange(len(y)), int(rng.integers(1, 5))):
        e.merge(Errors().update(y[rows], p[rows]))
    return e.result()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.usefixtures("backend")
def test_errors_of_any_magnitude(scale, rng):
    for trial in range(8):
        n = int(rng.integers(2, 30))
        y, p = (rng.integers(-9, 10, n) * scale for _ in range(2))
        if trial % 2:
            y = y[0] * np.ones(n) if trial == 1 else -p
        mae, rmse, lcc = exact(y, p)
        chunked = in_chunks(y, p, rng)
        tolerance = {"rtol": 1e-12, "atol": 5e-324}
        np.testing.assert_allclose([scores.mae(y, p), chunked["mae"]], mae, **tolerance)
        np.testing.assert_allclose([scores.rmse(y, p), chunked["rmse"]], rmse, **tolerance)
        np.testing.assert_allclose([scores.lcc(y, p), chunked["lcc"]], lcc, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("backend")
def test_errors_of_several_magnitudes(rng):
    for _ in range(20):
        n = int(rng.integers(2, 12))
        y, p = (rng.choice([-3e305, 1e200, 1e-200, 4e-320, 0.0, 2.5], n) for _ in range(2))
        mae, rmse, lcc = exact(y, p)
        chunked = in_chunks(y, p, rng)
        np.testing.assert_allclose([scores.mae(y, p), chunked["mae"]], mae, rtol=1e-12)
        np.testing.assert_allclose([scores.rmse(y, p), chunked["rmse"]], rmse, rtol=1e-12)
        np.testing.assert_allclose([scores.lcc(y, p), chunked["lcc"]], lcc, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("backend")
def test_a_mean_that_is_finite_is_no_overflow():
    y = np.array([1e308, -1e308, 1.0])
    assert scores.mae(y, -y) == Errors().update(y, -y).result()["mae"] == pytest.approx(float((4 * Fraction(10) ** 308 + 2) / 3))
    assert scores.coverage(-y[:1], y[:1], y[:1]) == Coverage().update(-y[:1], y[:1], y[:1]).result() == (1.0, math.inf)
    share, width = Coverage().update([-1e308, 0.0], [1e308, 0.0], [0.0, 0.0]).result()
    assert (share, width) == (1.0, 1e308) == scores.coverage([-1e308, 0.0], [1e308, 0.0], [0.0, 0.0])


@pytest.mark.usefixtures("backend")
def test_whole_numbers_that_fp64_rounds():
    big = 2**60
    y, p = np.array([big + 1, big + 2, big + 6]), np.array([big, big + 4, big + 5])
    mae, rmse, lcc = exact(y, p)
    for a, b in ((y, p), (y.astype(np.uint64), p)):
        assert (scores.mae(a, b), scores.rmse(a, b), scores.lcc(a, b)) == pytest.approx((mae, rmse, lcc), rel=1e-14)
        assert scores.cumulative_score(a, b, 1) == 2 / 3
        found = Errors(thetas=(1,)).update(a, b).result()
        assert (found["mae"], found["rmse"], found["cs@1"]) == pytest.approx((mae, rmse, 2 / 3), rel=1e-14)
    assert scores.coverage([big + 1], [big + 2], [big]) == (0.0, 1.0) == Coverage().update([big + 1], [big + 2], [big]).result()
    edges = [0.0, big + 2.0**9, 2.0**62]  # fp64 takes the number below the edge for the edge
    assert scores.mae_by_interval([big + 2**9 - 1], [big + 2**9 - 1], edges).rows.tolist() == [1, 0]
    assert scores.histogram_jsd([big + 2**9 - 1], [1], [0], edges=edges) == 0
    assert GroupedJSD(edges).update([big + 2**9 - 1], [1], [0]).result() == 0


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("base", [2, math.e, 10])
def test_divergences_stay_within_their_bounds(base):
    for k in range(200, 400, 7):
        y, g, edges = np.arange(k) * 2.0, np.zeros(k, int), np.arange(2 * k + 1) - 0.5
        disjoint = scores.histogram_jsd(y, y + 1, g, edges=edges, base=base)
        assert disjoint <= math.log(2) / math.log(base)
        assert disjoint == pytest.approx(math.log(2) / math.log(base))
        assert GroupedJSD(edges, base).update(y, y + 1, g).result() <= math.log(2) / math.log(base)
        y, p = np.r_[np.zeros(k), np.ones(k + 1)], np.r_[np.zeros(k + 1), np.ones(k)]
        assert scores.histogram_jsd(y, p, np.zeros(len(y), int), edges=[0, 0.5, 1], base=base) >= 0


def test_each_theta_has_a_name_of_its_own():
    found = Errors(thetas=(3_600_000, 3_600_001, 0.1, 0.5)).update([0.0], [3_600_001.0]).result()
    assert {k: v for k, v in found.items() if k.startswith("cs@")} == {"cs@3600000": 0, "cs@3600001": 1, "cs@0.1": 0, "cs@0.5": 0}
