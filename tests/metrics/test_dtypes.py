"""Metrics of updates in several dtypes, and of numbers of any magnitude."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from ordkernels import metrics, scores

UPDATES = {
    "int64": torch.tensor([2**62 + 1, 2**62 + 5, 2**62 + 2, 7]),
    "uint64": torch.tensor([2**53 + 1, 3, 5], dtype=torch.uint64),
    "float64": torch.tensor([2.0**62, 2.0**53 + 2, 0.1], dtype=torch.float64),
    "float32": torch.tensor([0.1, 2.0**30]),
    "bfloat16": torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "big-endian": np.array([2**62 + 3, -1], ">i8"),
}


def exact(x):
    values = (x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x).tolist()
    return [Fraction(v) for v in values]


def expected_scores(y, p):
    """MAE, RMSE, LCC, XAUC in fractions, rounded at the end."""
    n = len(y)
    d = [a - b for a, b in zip(y, p, strict=True)]
    u, v = ([n * a - sum(x) for a in x] for x in (y, p))
    yy, pp, yp = (sum(a * b for a, b in zip(s, t, strict=True)) for s, t in ((u, u), (v, v), (u, v)))
    credit, pairs = Fraction(0), 0
    for i, j in itertools.combinations(range(n), 2):
        if y[i] != y[j]:
            pairs += 1
            credit += Fraction(1, 2) if p[i] == p[j] else (y[i] < y[j]) == (p[i] < p[j])
    lcc = math.copysign(math.sqrt(yp * yp / (yy * pp)), yp)
    return float(sum(map(abs, d)) / n), math.sqrt(sum(a * a for a in d) / n), lcc, float(credit / pairs)


@pytest.mark.parametrize("kinds", [*itertools.combinations(UPDATES, 2), tuple(UPDATES), tuple(UPDATES)[::-1]])
def test_updates_of_several_dtypes_lose_no_digit(kinds):
    made = [metrics.MAE(), metrics.RMSE(), metrics.LCC(), metrics.XAUC()]
    y, p = [], []
    for kind in kinds:
        labels = UPDATES[kind]
        predictions = labels[::-1].copy() if isinstance(labels, np.ndarray) else labels.cpu()[[*range(1, len(labels)), 0]]
        y, p = y + exact(labels), p + exact(predictions)
        for m in made:
            m.update(predictions, labels)
    np.testing.assert_allclose([float(m.compute()) for m in made], expected_scores(y, p), rtol=1e-12)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-200, 1e-170, 1e154, 1e200, 1e307])
def test_metrics_of_any_magnitude(scale):
    rng = np.random.default_rng(3)
    y, p = (rng.integers(-9, 10, 40) * scale for _ in range(2))
    # in double precision of fractions: the roots are of numbers near 1
    mae, rmse, lcc, _ = expected_scores(*([Fraction(v) / Fraction(scale) for v in x] for x in (y, p)))
    made, halves = [metrics.MAE(), metrics.RMSE(), metrics.LCC()], [metrics.LCC(), metrics.LCC()]
    for k, rows in enumerate(np.array_split(np.arange(40), 4)):
        for m in (*made, halves[k % 2]):
            m.update(torch.tensor(p[rows]), y[rows])
    found = [float(m.compute()) for m in made]
    np.testing.assert_allclose(found, [mae * scale, rmse * scale, lcc], rtol=1e-12, atol=5e-324)
    halves[0].moments = metrics.errors._merge_moments(torch.stack([m.moments for m in halves]))  # as processes do
    assert float(halves[0].compute()) == pytest.approx(lcc, rel=1e-12)


def test_a_flag_is_a_bool():
    assert metrics.CRPS(fair=np.True_).fair is True
    with pytest.raises(TypeError, match="fair: expected a bool, got str"):
        metrics.CRPS(fair="no")


def test_rows_are_those_of_the_update():
    """Not of what the caller writes into its arrays afterwards."""
    y, p = np.array([1, 2, 3]), np.array([1.0, 3.0, 2.0])
    m = metrics.XAUC()
    m.update(p, y)
    expected = scores.xauc(y, p).value
    y[:], p[:] = 0, 0
    assert float(m.compute()) == expected
