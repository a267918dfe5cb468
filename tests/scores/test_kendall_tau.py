"""Kendall's tau against scipy, brute force and the reference."""

import itertools
import math

import numpy as np
import pytest
from score_checks import HOSTILE, check_compiled, hostile

import ordkernels
from ordkernels import ops

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "reference"]
VARIANTS = ("a", "b", "c")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def brute(y, p, variant):
    """From every pair's signs."""
    n, m = len(y), min(len(set(y)), len(set(p)))
    signs = [(np.sign(y[i] - y[j]), np.sign(p[i] - p[j])) for i, j in itertools.combinations(range(n), 2)]
    difference = sum(s * t for s, t in signs)
    of_y, of_p = (sum(abs(pair[side]) for pair in signs) for side in (0, 1))
    scale = {"a": len(signs), "b": math.sqrt(of_y * of_p), "c": n * n * (m - 1) / (2 * m)}[variant]
    return difference / scale if scale else math.nan


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pair(backend, variant, rng):
    with ordkernels.use_backend(backend):
        for trial in range(60):
            n = int(rng.integers(1, 25))
            y, p = rng.integers(0, 1 + trial % 9, n), rng.integers(0, 1 + trial % 7, n) / 4
            assert ops.kendall_tau(y, p, variant=variant) == pytest.approx(brute(y, p, variant), abs=1e-14, nan_ok=True)


@pytest.mark.parametrize("variant", ["b", "c"])
@pytest.mark.parametrize("levels", [3, 40, 10**6])
def test_scipy(variant, levels, rng):
    stats = pytest.importorskip("scipy.stats")
    y, p = rng.integers(0, levels, 3000), rng.integers(0, 20, 3000)
    p = np.where(rng.random(3000) < 0.5, p, y)
    assert ops.kendall_tau(y, p, variant=variant) == pytest.approx(stats.kendalltau(y, p, variant=variant).statistic, abs=1e-14)


def test_perfect_and_reversed_order_are_1(rng):
    for n in (2, 3, 1000):
        y = rng.permutation(n)
        assert [ops.kendall_tau(y, y, variant=v) for v in VARIANTS] == [1, 1, 1]
        assert [ops.kendall_tau(y, -y, variant=v) for v in VARIANTS] == [-1, -1, -1]
    ties = rng.integers(0, 7, 1000)
    assert ops.kendall_tau(ties, ties * 3) == 1


@pytest.mark.native
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("n", [1, 2, 65, 1025, 40_000])
def test_hostile_rows(kind, n, rng):
    y, p = hostile(kind, n, rng)
    for variant in VARIANTS:
        with ordkernels.use_backend("reference"):
            expected = ops.kendall_tau(y, p, variant=variant)
        assert ops.kendall_tau(y, p, variant=variant) == pytest.approx(expected, abs=1e-14, nan_ok=True)


@pytest.mark.native
def test_threads_do_not_change_a_bit(rng):
    check_compiled(ops.kendall_tau, rng.normal(3, 5, 5000), rng.integers(0, 50, 5000))


def test_error_texts():
    with pytest.raises(ValueError, match="variant: expected 'a', 'b' or 'c', got 'd'"):
        ops.kendall_tau([1, 2], [1, 2], variant="d")
    with pytest.raises(ValueError, match="prediction: expected no NaN, got 1 of 2"):
        ops.kendall_tau([1, 2], [1, math.nan])
