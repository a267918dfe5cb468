"""AUC against scikit-learn."""

import numpy as np
import pytest

from ordkernels import ops


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_auc(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    y, p, w = rng.integers(0, 2, 200), rng.integers(0, 9, 200) / 8, rng.random(200)
    assert ops.auc(y, p) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert ops.auc(y, p, weight=w) == pytest.approx(metrics.roc_auc_score(y, p, sample_weight=w), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.auc([0, 2], [0.1, 0.2]), ValueError, "y: expected labels 0 and 1, got 2.0 at index 1"),
        (lambda: ops.auc([1, 1], [0.1, 0.2]), ValueError, "y: expected both labels 0 and 1, got only 1"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
