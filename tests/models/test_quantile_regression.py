"""QuantileRegression: its quantiles do not cross, and hold the shares of rows that they say."""

import pytest
import torch
from test_flowtime import ITEMS, USERS, F, data, without_y

from ordkernels import ops
from ordkernels.models import QuantileRegression, fit


@pytest.fixture(scope="module")
def trained() -> QuantileRegression:
    torch.manual_seed(0)
    model = QuantileRegression(USERS, ITEMS, F, hidden=16, trunk_width=32, levels=9)
    fit(model, data(1000), epochs=10, batch_size=50, lr=5e-3, progress=False)
    return model


def test_quantiles_hold_their_shares(trained) -> None:
    test = data(1000, seed=1)
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    q = trained.quantiles(without_y(test), levels)
    assert bool((q.diff(dim=1) >= 0).all())
    assert bool((q >= 0).all())
    below = (test["y"][:, None] <= q).float().mean(dim=0)
    assert torch.allclose(below, torch.tensor(levels), atol=0.1)
    assert ops.xauc(test["y"], q[:, 2]).value > 0.65


def test_the_prediction_is_the_median(trained) -> None:
    x = without_y(data(30, seed=2))
    assert torch.equal(trained.predict(x), trained.quantiles(x, [0.5])[:, 0])
    assert torch.equal(trained.quantiles(x, [0.0, 1.0]), trained.quantiles(x, [0.5 / 9, 8.5 / 9]))  # the outermost that it has
    assert torch.equal(trained.interval(x, 0.6), trained.quantiles(x, [0.2, 0.8]))
    assert trained.quantiles({k: v[:0] for k, v in x.items()}, [0.5]).shape == (0, 1)


def test_draws_are_quantiles_at_uniform_levels_of_the_row(trained) -> None:
    x, ids = without_y(data(40, seed=3)), torch.arange(100, 140)
    draws = trained.sample(x, 4000, seed=1, row_ids=ids)
    want = trained.quantiles(x, [0.25, 0.5, 0.75])
    got = draws.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=1).T
    assert torch.allclose(got, want, rtol=0.15, atol=0.1)
    part = trained.sample({k: v[7:9] for k, v in x.items()}, 5, seed=1, row_ids=ids[7:9])
    assert torch.allclose(part, draws[7:9, :5], rtol=1e-4, atol=1e-4)


def test_errors(trained) -> None:
    with pytest.raises(ValueError, match="levels: expected"):
        trained.quantiles(without_y(data(3)), [1.5])
    with pytest.raises(ValueError, match="levels: expected"):
        QuantileRegression(0, 0, 2, levels=0)
