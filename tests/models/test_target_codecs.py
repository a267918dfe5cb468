"""Codecs of the watch-time models: readings against their definitions, labels and their inverses, errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ordkernels.models.baselines import target_codecs as d

X = torch.zeros(3)


@pytest.fixture(autouse=True)
def one_thread():
    """Of tensors this small, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rand(*size, seed=0):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------- CREAD


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_survival_expectation_is_the_sum(shape):
    edges = torch.tensor([0.0, 1, 1, 2.5, 9], dtype=torch.float64)
    p = rand(*shape, 4).sigmoid()
    out = d.survival_expectation(p, edges)
    assert out.shape == shape
    for at in np.ndindex(*shape):
        assert float(out[at]) == pytest.approx(sum(float(p[at][m]) * float(edges[m + 1] - edges[m]) for m in range(4)), rel=1e-14)
    assert gradcheck(lambda p, c: d.survival_expectation(p, c.cumsum(0)), (p.requires_grad_(), rand(5).abs().requires_grad_()))


def test_survival_labels_restore_the_edge_below():
    edges = torch.tensor([0.0, 1, 1, 4, 10])
    y = torch.tensor([0.0, 0.5, 1.0, 1.5, 4.0, 7.0, 10.0, 99.0])
    labels = d.survival_labels(y, edges)
    below = [max((float(e) for e in edges if e < v), default=0.0) for v in y]
    assert d.survival_expectation(labels, edges).tolist() == below
    assert labels.diff(dim=1).max() <= 0  # ordered


def test_adaptive_edges_go_from_equal_mass_to_equal_width():
    y = -torch.log1p(-(torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)  # exponential
    mass, width = d.adaptive_edges(y, 8, 0), d.adaptive_edges(y, 8, 9.0)
    assert torch.bincount(torch.searchsorted(mass[1:-1], y, right=True)).tolist() == [2500] * 8
    assert width[1:8].diff().max() / width[1:8].diff().min() < 1.2 < mass[1:8].diff().max() / mass[1:8].diff().min()
    for alpha in (0.5, 3.0):
        levels = [(1 - math.exp(-alpha * m / 8)) / (1 - math.exp(-alpha)) for m in range(1, 9)]
        np.testing.assert_allclose(d.adaptive_edges(y, 8, alpha)[1:], np.quantile(y.numpy(), levels), rtol=1e-12)
    assert d.adaptive_edges(torch.tensor([5.0]), 2).tolist() == [0, 5, 5]
    assert d.adaptive_edges(torch.zeros(3), 3).tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------------------------------------------- TPM


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_tree_by_enumerating_paths(depth):
    L = 2**depth
    logits, values = rand(3, L - 1, seed=depth), rand(L, seed=9)
    leaves = torch.ones(3, L, dtype=torch.float64)
    for leaf, turns in enumerate(itertools.product((0, 1), repeat=depth)):
        node = 0
        for turn in turns:
            q = logits[:, node].sigmoid()
            leaves[:, leaf] *= q if turn else 1 - q
            node = 2 * node + 1 + turn  # level by level, a node's children follow each other
    torch.testing.assert_close(d.tree_leaves(logits), leaves)
    mean, variance = d.tree_expectation(logits, values)
    torch.testing.assert_close(mean, (leaves * values).sum(1))
    torch.testing.assert_close(variance, (leaves * values**2).sum(1) - mean**2)
    assert gradcheck(d.tree_expectation, (logits.requires_grad_(), values.requires_grad_()))
    assert not d.tree_leaves(torch.tensor([300.0] * (L - 1)))[:-1].isnan().any()


def test_tree_labels_lead_to_their_leaf():
    edges = torch.tensor([0.0, 1, 2, 2, 5, 7, 8, 9, 30])
    y = torch.tensor([-3.0, 0.0, 1.0, 1.9, 2.0, 4.9, 5.0, 8.5, 9.0, 400.0])
    turns, path = d.tree_labels(y, edges)
    assert path.sum(1).tolist() == [3] * len(y)
    assert ((turns == 1) & (path == 0)).sum() == 0
    leaf = np.searchsorted(edges[1:-1].numpy(), y.numpy(), side="right")
    assert d.tree_leaves(torch.where(turns == 1, 60.0, -60.0)).argmax(1).tolist() == leaf.tolist()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(rand(10, 7), turns.double(), reduction="none")
    chosen = d.tree_leaves(rand(10, 7))[torch.arange(10), torch.as_tensor(leaf)]
    torch.testing.assert_close((bce * path).sum(1), -chosen.log())  # the loss is the leaf's likelihood


# ---------------------------------------------------------------------------------------------------- WLR, EGMN


def test_odds_of_the_weights():
    y = torch.tensor([0.0, 2.0, 3.0, 7.0], dtype=torch.float64)
    for positive, odds in ((None, 12 / 4), (torch.tensor([False, True, False, True]), 9 / 2)):
        up, down = d.odds_weights(y, positive)
        z = torch.tensor(math.log(odds), dtype=torch.float64, requires_grad=True)
        (up * torch.nn.functional.softplus(-z) + down * torch.nn.functional.softplus(z)).sum().backward()
        assert abs(float(z.grad)) < 1e-12  # the loss's minimum


def test_mixture_against_quadrature():
    logits, scale = rand(3), torch.tensor(1.3, dtype=torch.float64)
    mu, sigma = torch.tensor([4.0, 9.0], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)
    x = torch.linspace(0, 60, 60001, dtype=torch.float64)
    density = torch.exp(-d.mixture_nll(x, logits.expand(60001, 3), scale.expand(60001), mu.expand(60001, 2), sigma.expand(60001, 2)))
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-6)
    assert float(torch.trapezoid(density * x, x)) == pytest.approx(float(d.mixture_mean(logits, scale, mu)), abs=1e-5)
    rows = [rand(2, 3, seed=1), rand(2, seed=2).exp(), rand(2, 2, seed=3), rand(2, 2, seed=4).exp()]
    rows = [t.requires_grad_() for t in rows]
    assert gradcheck(d.mixture_mean, rows[:3])
    assert gradcheck(d.mixture_nll, [rand(2, seed=5).abs().requires_grad_(), *rows])


# ---------------------------------------------------------------------------------------------------- D2Q


def test_duration_quantiles_there_and_back():
    g = torch.Generator().manual_seed(0)
    duration = torch.randint(1, 4, (600,), generator=g) * 10.0
    y = torch.rand(600, generator=g) * duration * (torch.rand(600, generator=g) > 0.3)
    table = d.DurationQuantiles(groups=3, knots=41)
    table.fit(y, duration)
    assert torch.bincount(table.group(duration)).count_nonzero() == 3
    rank = table(y, duration)
    torch.testing.assert_close(table.inverse(rank, duration), y, rtol=1e-4, atol=1e-4)
    assert bool(((rank >= 0) & (rank <= 1)).all())
    for group in range(3):
        rows = table.group(duration) == group
        assert float(rank[rows].mean()) == pytest.approx(0.5, abs=0.02)  # ranks: zeros at the middle of the tied ones
        np.testing.assert_allclose(table.values[group], np.quantile(y[rows].numpy(), np.linspace(0, 1, 41)), rtol=1e-5)
    assert table(torch.tensor([-1.0, 999.0]), torch.tensor([10.0, 30.0])).tolist()[1] == 1
    double = d.DurationQuantiles(3, 7).double()
    double.fit(y.double(), duration.double())
    inside = torch.tensor([0.13, 0.48, 0.91], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda r: double.inverse(r, torch.tensor([10.0, 20, 30], dtype=torch.float64)), inside)


def test_durations_that_tie_leave_groups_empty():
    table = d.DurationQuantiles(groups=5, knots=3)
    table.fit(torch.tensor([1.0, 2, 3]), torch.tensor([9.0, 9, 9]))
    assert bool(table.values.isfinite().all())
    assert table.inverse(torch.tensor([0.5, 0.5]), torch.tensor([9.0, 0.0])).tolist() == [2, 2]
    assert table.inverse(torch.zeros(0), torch.zeros(0)).shape == (0,)


# ---------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: d.survival_expectation([0.5], X), TypeError, "survival: expected a torch.Tensor, got list"),
        (lambda: d.survival_expectation(X, X), ValueError, r"edges: expected \[M\+1\] = \[4\], got \[3\]"),
        (lambda: d.survival_expectation(X[:2], X.double()), TypeError, "edges: expected the dtype of survival"),
        (lambda: d.survival_expectation(X[0], X), ValueError, "survival"),
        (lambda: d.survival_labels(X, torch.tensor([0.0, 2, 1])), ValueError, "edges: expected rising"),
        (lambda: d.survival_labels(X, torch.tensor([0.0, math.nan])), ValueError, "edges: expected rising"),
        (lambda: d.adaptive_edges(X[:0], 3), ValueError, "y: expected at least one"),
        (lambda: d.adaptive_edges(torch.tensor([1.0, math.nan]), 3), ValueError, "at row 1"),
        (lambda: d.adaptive_edges(X, 0), ValueError, "intervals: expected at least 1"),
        (lambda: d.adaptive_edges(X, 3, -1.0), ValueError, "alpha"),
        (lambda: d.tree_leaves(torch.zeros(4)), ValueError, "logits: expected those of 2, 4, 8"),
        (lambda: d.tree_leaves(torch.tensor(1.0)), ValueError, "logits"),
        (lambda: d.tree_expectation(X, X), ValueError, r"values: expected \[L\] = \[4\]"),
        (lambda: d.tree_labels(X, torch.arange(4.0)), ValueError, "edges: expected those of 2, 4, 8"),
        (lambda: d.odds_weights(X - 1), ValueError, "y: expected finite values of at least 0, got -1.0 at row 0"),
        (lambda: d.odds_weights(X, X), TypeError, "positive: expected a bool tensor, got torch.float32"),
        (lambda: d.odds_weights(X, X[:2] > 0), ValueError, "positive"),
        (lambda: d.mixture_mean(X[:1], X[0], X[:0]), ValueError, "logits"),
        (lambda: d.mixture_mean(X, X[0], X), ValueError, "mu"),
        (lambda: d.mixture_nll(X[0], X, X[0], X[:2], X), ValueError, "sigma"),
        (lambda: d.DurationQuantiles(0), ValueError, "groups: expected at least 1"),
        (lambda: d.DurationQuantiles(2, 1), ValueError, "knots: expected at least 2"),
        (lambda: d.DurationQuantiles().fit(X, X[:2]), ValueError, "duration"),
        (lambda: d.DurationQuantiles()(X, X[:2]), ValueError, "duration"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
