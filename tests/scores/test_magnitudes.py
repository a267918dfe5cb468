"""Scores of numbers of any magnitude, and of whole numbers that fp64 rounds, against rational arithmetic; one call and in chunks."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

import ordkernels
from ordkernels import quantiles, scores
from ordkernels.scores.streaming import Coverage, Errors, GroupedJSD, SampleScores, theta_key

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


def fraction(v):
    if isinstance(v, np.longdouble):
        return sum(map(Fraction, (high := float(v), float(v - np.longdouble(high)))))
    return Fraction(int(v) if isinstance(v, np.integer) else float(v))


def exact(y, p):
    """(mae, rmse, lcc) in fractions, rounded at the end."""
    y, p = ([fraction(v) for v in x] for x in (y, p))
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


CHUNKS = {
    "int64": np.array([2**62 + 1, 2**62 + 5, 2**62 + 2]),
    "uint64": np.array([2**62 + 7, 2**62 + 1, 2**62 + 3, 2**62 + 4], np.uint64),
    "float64": np.array([2.0**62, 2.0**62 + 2048, 2.0**62]),
    "long double": np.longdouble(2**62) + np.array([0.5, 3, 2.5, 1], np.longdouble),
    "float32": np.array([2.0**62, 2.0**62 + 2**40], np.float32),
    "small float32": np.array([0.5, 1.5, 3.0], np.float32),
    "large uint64": np.array([2**64 - 1, 2**64 - 3], np.uint64),
    "int8": np.array([-1, 5], np.int8),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "kinds", [*itertools.permutations(["int64", "uint64", "float64", "long double"]), *itertools.combinations(CHUNKS, 2)]
)
def test_chunks_of_several_dtypes_lose_no_digit(kinds, rng):
    chunks = [CHUNKS[kind] for kind in kinds]
    predictions = [
        CHUNKS[kind][::-1][: len(CHUNKS[kind])] if rng.random() < 0.5 else rng.integers(0, 9, len(CHUNKS[kind])) for kind in kinds
    ]
    mae, rmse, lcc = exact([v for c in chunks for v in c], [v for c in predictions for v in c])
    errors, parts = Errors(), Errors()
    for y, p in zip(chunks, predictions, strict=True):
        errors.update(y, p)
        parts.merge(Errors().update(y, p))
    for found in (errors.result(), parts.result()):
        np.testing.assert_allclose([found["mae"], found["rmse"], found["lcc"]], [mae, rmse, lcc], rtol=1e-12)


@pytest.mark.usefixtures("backend")
def test_a_large_mean_does_not_hide_the_rest(rng):
    """Times in nanoseconds, of more rows than a block of the compiled sums."""
    steps, noise = rng.integers(0, 8, 5000), rng.integers(0, 8, 5000)
    p = steps + noise
    yy, pp, yp = (5000 * int((a * b).sum()) - int(a.sum()) * int(b.sum()) for a, b in ((steps, steps), (p, p), (steps, p)))
    lcc = yp / math.sqrt(yy * pp)
    for origin, dtype in ((2**52, np.float64), (2**62, np.int64), (2**63, np.uint64)):
        y = np.asarray(origin, dtype) + steps.astype(dtype)
        assert scores.lcc(y, p) == pytest.approx(lcc, rel=1e-12)
        errors = Errors()
        for rows in np.array_split(np.arange(5000), 7):
            errors.update(y[rows], p[rows])
        assert errors.result()["lcc"] == pytest.approx(lcc, rel=1e-12)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("scale", SCALES)
def test_a_line_has_a_correlation_of_exactly_1(scale):
    for n in (2, 3, 5, 8):
        y = np.arange(n) * scale
        assert (scores.lcc(y, y), scores.lcc(y, -y)) == (1.0, -1.0)
        assert Errors().update(y[:2], -y[:2]).merge(Errors().update(y[2:], -y[2:])).result()["lcc"] == -1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("backend")
def test_differences_that_overflow_are_outside_every_tolerance():
    assert scores.cumulative_score([1.7e308, 1.0], [-1.7e308, 1.0], 1.7e308) == 0.5
    assert Errors(thetas=(1.7e308,)).update([1.7e308, 1.0], [-1.7e308, 1.0]).result()["cs@1.7e+308"] == 0.5


@pytest.mark.usefixtures("backend")
def test_a_tolerance_is_compared_with_the_exact_difference():
    for y, p, theta in (
        (2**53 + 1, 0, 2.0**53),  # the float nearest to the difference is theta
        (2**60 + 1, 0, 2.0**60),
        (2**64 - 1, -(2**63), 3 * 2.0**63 - 2.0**12),
        (-(2**63), 2**63, 2.0**64 - 2.0**11),
    ):
        a, b = (np.array([v], np.uint64 if v >= 2**63 else np.int64) for v in (y, p))
        for t in (theta, math.nextafter(theta, math.inf), float(abs(y - p))):
            assert scores.cumulative_score(a, b, t) == float(abs(y - p) <= Fraction(t)), (y, p, t)
            assert Errors(thetas=[t]).update(b, a).result()[theta_key(t)] == float(abs(y - p) <= Fraction(t))


@pytest.mark.usefixtures("backend")
def test_intervals_are_compared_exactly():
    big = 2**60
    for lower, upper, y in ((big + 1, big + 2, 0), (0, big + 1, big + 2), (-(2**62) - 1, 2**62 + 1, 2**62 + 2), (big, big + 1, big + 1)):
        expected = (float(lower <= y <= upper), float(upper - lower))
        assert scores.coverage([lower], [upper], [y]) == expected == Coverage().update([lower], [upper], [y]).result()
    with pytest.raises(ValueError, match=f"lower: expected at most upper, got {big + 1} above {big} at index 0"):
        scores.coverage([big + 1], [big], [0])


@pytest.mark.parametrize("scale", SCALES)
def test_sample_scores_of_any_magnitude(scale, rng):
    samples, y = rng.integers(-9, 10, (6, 5)) * scale, rng.integers(-9, 10, 6) * scale
    pairs = [(list(map(Fraction, row)), Fraction(t)) for row, t in zip(samples, y, strict=True)]
    spread = [sum(abs(a - b) for a in row for b in row) / 2 for row, _ in pairs]
    for fair, n in ((False, 25), (True, 20)):
        crps = sum(sum(abs(a - t) for a in row) / 5 - s / n for (row, t), s in zip(pairs, spread, strict=True)) / 6
        assert SampleScores(fair=fair).update(samples, y).result() == pytest.approx(float(crps), rel=1e-12, abs=5e-324)
    levels = [0.0, 0.25, 0.5, 0.75, 1.0]
    loss = [sum(max(Fraction(q) * (t - row[i]), (1 - Fraction(q)) * (row[i] - t)) for row, t in pairs) / 6 for i, q in enumerate(levels)]
    np.testing.assert_allclose(SampleScores(levels).update(samples, y).result(), list(map(float, loss)), rtol=1e-12, atol=5e-324)


def test_sample_scores_of_whole_numbers_that_fp64_rounds():
    big = 2**60
    assert SampleScores().update([[big + 1, big + 3]], [big + 2]).result() == 0.5
    assert SampleScores([0.5]).update(np.array([[2**64 - 1]], np.uint64), [big]).result() == (2**64 - 1 - big) / 2


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("edge", [2**60 + 1, 2**63 + 1])
def test_edges_that_fp64_rounds_are_refused(edge):
    for call in (lambda e: scores.histogram_jsd([1], [1], [0], edges=e), lambda e: scores.mae_by_interval([1], [1], e), GroupedJSD):
        with pytest.raises(ValueError, match=f"edges: expected numbers that a float64 holds, got {edge} at index 1"):
            call([0, edge])


@pytest.mark.usefixtures("backend")
def test_errors_by_interval_of_any_magnitude():
    found = scores.mae_by_interval([1e308, 1e308, 1.0], [-1e308, 1e308, 3.0], [0, 2, 2e308])
    assert found.mae.tolist() == [2.0, 1e308]
    assert found.rows.tolist() == [1, 2]


@pytest.mark.usefixtures("backend")
def test_orders_of_numbers_that_differ_in_the_last_digit_of_a_long_double():
    if np.finfo(np.longdouble).eps == np.finfo(float).eps:
        pytest.skip("long doubles are doubles here")
    y = np.array([1, 1 + np.finfo(np.longdouble).eps, 2], np.longdouble)
    assert scores.xauc(y, [1, 2, 3]) == (1.0, 3, 0, 3)
    assert scores.srcc(y, [1, 2, 3]) == pytest.approx(1)
    expected = quantiles.history_quantiles([1.0, 2.0, 3.0], [0] * 3, [0, 1, 2], [0.5])
    np.testing.assert_array_equal(quantiles.history_quantiles([1.0, 2.0, 3.0], [0] * 3, y, [0.5]), expected)
    with pytest.raises(ValueError, match="y: expected numbers in the range of float64, got 1e\\+4000 at index 0"):
        scores.mae(np.array(["1e4000"], np.longdouble), [0.0])


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
