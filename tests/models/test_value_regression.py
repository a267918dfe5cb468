"""Value regression on FlowTime's encoder: every objective learns its own statistic."""

import pytest
import torch
from test_flowtime import ITEMS, USERS, F, data, without_y

from ordkernels import ops
from ordkernels.models import ValueRegression, fit


@pytest.mark.parametrize("objective", ["squared", "huber", "absolute"])
def test_value_regression_learns_its_own_statistic(objective) -> None:
    torch.manual_seed(0)
    model = ValueRegression(USERS, ITEMS, F, hidden=16, trunk_width=32, objective=objective)
    train, test = data(), data(300, seed=1)
    history = fit(model, train, epochs=8, batch_size=50, lr=1e-2, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    prediction = model.predict(without_y(test))
    assert (prediction >= 0).all()
    assert ops.xauc(test["y"], prediction).value > 0.65
    statistic = test["y"].median() if objective == "absolute" else test["y"].mean()
    error = (prediction - test["y"]).abs() if objective == "absolute" else (prediction - test["y"]).square()
    constant = (statistic - test["y"]).abs() if objective == "absolute" else (statistic - test["y"]).square()
    assert float(error.mean()) < float(constant.mean())


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(ValueError, match="objective"):
        ValueRegression(3, 3, 2, objective="log")
