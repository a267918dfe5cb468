"""Weighted XAUC and AUC against rational arithmetic, whatever the weights, on both backends and by torch."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import ordkernels
from ordkernels import ops
from ordkernels.reference.xauc import xauc_counts as exact_counts
from ordkernels.scores.xauc import _scaled, result
from ordkernels.scores.xauc_device import count as torch_counts

BACKENDS = [pytest.param("cpu", marks=pytest.mark.native), "reference"]
RULES = [(ties, average) for ties in ("half", "strict") for average in ("group", "pair")]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def weights(kind, n, rng):
    if kind == "tenths":
        return rng.integers(0, 4, n) / 10
    if kind == "eight decades":
        return 10.0 ** rng.uniform(-8, 8, n)
    if kind == "far apart":
        return rng.choice([1e-300, 1e-160, 0.0, 0.3, 1e160, 1e300], n)
    if kind == "tiny":
        return rng.choice([5e-324, 3e-310, 1e-300, 0.0], n)
    if kind == "huge":
        return rng.choice([1.7e308, 1e300, 3e305], n)
    if kind == "tiny and even":
        return rng.uniform(1e-200, 2e-200, n)
    raise ValueError(kind)


KINDS = ("tenths", "eight decades", "far apart", "tiny", "huge", "tiny and even")


def rational(y, p, w, group):
    """Per group: (concordant, tied, pairs), in fractions."""
    found = {}
    for i, j in itertools.combinations(range(len(y)), 2):
        if group[i] == group[j] and y[i] != y[j]:
            c, t, m = found.get(group[i], (Fraction(0),) * 3)
            v = Fraction(float(w[i])) * Fraction(float(w[j]))
            found[group[i]] = (c + v * bool((y[i] - y[j]) * (p[i] - p[j]) > 0), t + v * bool(p[i] == p[j]), m + v)
    return [f for f in found.values() if f[2]]


def rational_value(groups, ties, average):
    if not groups:
        return math.nan
    if average == "pair":
        groups = [tuple(map(sum, zip(*groups, strict=True)))]
    return float(sum((c + t * (ties == "half") / 2) / m for c, t, m in groups) / len(groups))


def nearest(x):
    try:
        return float(x)
    except OverflowError:
        return math.inf


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_counts_are_those_of_fractions(kind, backend, rng):
    for trial in range(25):
        n = int(rng.integers(1, 45))
        y, p = rng.integers(0, 1 + trial % 5, n), rng.integers(0, 1 + trial % 7, n)
        w, g = weights(kind, n, rng), rng.integers(0, 1 + trial % 4, n)
        groups = rational(y, p, w, g)
        totals = [sum(column) for column in zip(*groups, strict=True)] if groups else [0, 0, 0]
        for ties, average in RULES:
            with ordkernels.use_backend(backend):
                got = ops.xauc(y, p, weight=w, group=g, ties=ties, average=average)
                alone = ops.xauc(y, p, weight=w, ties=ties)
            np.testing.assert_allclose(got.value, rational_value(groups, ties, average), rtol=1e-13)
            np.testing.assert_allclose(got[1:], [nearest(x) for x in totals], rtol=1e-12, atol=5e-324)
            np.testing.assert_allclose(alone.value, rational_value(rational(y, p, w, np.zeros(n)), ties, "pair"), rtol=1e-13)


@pytest.mark.parametrize("kind", ["tenths", "eight decades", "tiny and even"])
def test_sorts_of_torch_are_as_accurate(kind, rng):
    for trial in range(12):
        n = int(rng.integers(1, 60))
        y, p = rng.integers(0, 1 + trial % 5, n), rng.integers(0, 1 + trial % 7, n)
        w, g = weights(kind, n, rng), rng.integers(0, 3, n)
        w = w * 1e190 if kind == "tiny and even" else w
        counts, sums = torch_counts(*(torch.from_numpy(x) for x in (y, p, w, g)), False)
        for ties, average in RULES:
            got = result(counts, sums if average == "group" else None, ties)
            np.testing.assert_allclose(got.value, rational_value(rational(y, p, w, g), ties, average), rtol=1e-13)


@pytest.mark.native
@pytest.mark.parametrize("ties", ["none", "few predictions", "one prediction but for a pair", "two labels"])
@pytest.mark.parametrize("n", [33, 129, 4097, 20_000])
def test_longer_columns_are_those_of_whole_numbers(ties, n, rng):
    """Against exact sums of Python's integers; above a block and a small range of the compiled count."""
    y, p, w = rng.random(n), rng.random(n), 10.0 ** rng.uniform(-8, 8, n)
    if ties == "few predictions":
        p = np.floor(p * 3)
    elif ties == "one prediction but for a pair":
        p[:] = np.where(np.arange(n) == np.argmax(y), 1, 0)
        w[np.argmax(y)] = 1e-9
    elif ties == "two labels":
        y = np.floor(y * 2)
    whole, exponent = _scaled(np.r_[w, 1e-299, 1e299])  # far apart: as integers
    assert whole.dtype == object
    c, t, m, _ = exact_counts(y, p, whole[:n], None)
    for rule in ("half", "strict"):
        got = ops.xauc(y, p, weight=w, ties=rule)
        assert got == ops.xauc(y, p, weight=w, ties=rule, num_threads=2)
        want = [(2 * c + t * (rule == "half")) / (2 * m), *(float(Fraction(x) * Fraction(2) ** (-2 * exponent)) for x in (c, t, m))]
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_pair_the_value_is_nan_and_a_group_does_not_count(backend, rng):
    with ordkernels.use_backend(backend):
        for n in (1, 3, 100, 5000):
            assert math.isnan(ops.xauc(np.ones(n), rng.random(n), weight=rng.random(n)).value)
            assert math.isnan(ops.xauc(np.arange(n), rng.random(n), weight=np.zeros(n)).value)
            assert math.isnan(ops.xauc(np.arange(n), rng.random(n), weight=(np.arange(n) == 0) * 0.1).value)
        n = 4000
        g = np.repeat(np.arange(n // 10), 10)
        y = (rng.random(n) < 0.3).astype(float)
        y[g < 200] = 0  # no pair in these
        p, w = rng.random(n), rng.random(n)
        want = rational_value([f for k in range(n // 10) for f in rational(*(x[g == k] for x in (y, p, w, g)))], "half", "group")
        assert ops.xauc(y, p, weight=w, group=g).value == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_auc_of_weights_far_apart(backend):
    with ordkernels.use_backend(backend):
        assert ops.auc([0, 1, 1], [0.2, 0.1, 0.9], weight=[1e300, 1e-300, 1e-300]) == 0.5
        assert ops.auc([0, 1, 1, 0], [0.5, 0.5, 0.5, 0.5], weight=[0.1, 0.2, 0.3, 1e17]) == 0.5
        assert math.isnan(ops.auc([0, 1], [0.2, 0.1], weight=[0.0, 0.3]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_weights_count_where_large_ones_have_no_pair(backend):
    """Their products underflow beside what the large weights are scaled to."""
    y, p, group = [1, 2, 3, 5], [1, 3, 2, 5], [0, 0, 0, 1]
    with ordkernels.use_backend(backend):
        found = ops.xauc(y, p, weight=[2.0**-600] * 3 + [2.0**500], group=group)
        assert found.value == ops.xauc(y, p, group=group).value == 2 / 3
