"""Baselines for plain tables: they learn, their statistics, errors."""

import pytest
import torch
from test_diffor import table

from ordkernels.models import TableClassifier, TableRegression, fit


@pytest.mark.slow
def test_table_baselines():
    train = table(600)
    for objective in ("squared", "absolute"):
        m = TableRegression(3, hidden=16, objective=objective)
        fit(m, train, epochs=20, batch_size=64, lr=1e-2, progress=False)
        assert (m.predict(train) - train["y"]).abs().mean() < 0.7 * (train["y"].median() - train["y"]).abs().mean()
    few = {"dense": train["dense"], "y": train["y"].clamp(max=3)}
    c = TableClassifier(3, few["y"], hidden=16)
    assert c.labels.tolist() == [0, 1, 2, 3]
    fit(c, few, epochs=20, batch_size=64, lr=1e-2, progress=False)
    p = c._predicted(few).softmax(1)
    assert torch.allclose(c.predict(few, "mean"), p @ c.labels)
    assert torch.equal(c.predict(few), c.labels[p.argmax(1)])
    below, median = (p.cumsum(1) < 0.5).sum(1), c.predict(few, "median")
    assert torch.equal(median, c.labels[below])
    assert (c.predict(few) == few["y"]).float().mean() > 0.6
    for call, text in (
        (lambda: TableRegression(3, objective="huber"), "objective: expected"),
        (lambda: TableClassifier(3, torch.ones(4)), "labels: expected at least 2 distinct labels"),
        (lambda: c.predict(few, "max"), "statistic: expected"),
        (lambda: c.loss({"dense": few["dense"], "y": few["y"] + 0.5}), "y: expected labels among"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
