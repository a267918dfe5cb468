"""The demo on a few hundred rows: it runs, writes what it says, and repeats itself; its scores by hand."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from ordkernels import demo, ops
from ordkernels.demo import evaluation, plots, speed


def split(rows, seed, quantiles=20):
    g = torch.Generator().manual_seed(seed)
    y = torch.rand(rows, generator=g).mul(30) * (torch.rand(rows, generator=g) > 0.1)
    q = torch.rand(2, rows, quantiles, generator=g).mul(30).sort(dim=2).values
    return {
        "user": torch.randint(0, 12, (rows,), generator=g), "item": torch.randint(0, 9, (rows,), generator=g),
        "user_id": torch.randint(0, 12, (rows,), generator=g), "dense": torch.randn(rows, 6, generator=g), "y": y,
        "q_user": q[0], "q_item": q[1], "has_user": torch.ones(rows), "has_item": torch.ones(rows), "row": torch.arange(rows) + 1000 * seed,
    }  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "kuairand", lambda path: (split(96, 1), split(64, 2)))
    measure = demo.measure
    monkeypatch.setattr(demo, "measure", lambda *a, seconds: measure(*a, rows=16, seconds=0.01))


def test_the_same_seed_gives_the_same_scores(small, tmp_path, capsys):
    first = demo.run(out=tmp_path / "a", seed=3, quick=True)
    printed = capsys.readouterr().out
    for word in ("MAE", "XAUC", "PDF-U", "PDF-I", "CRPS", "training", "scoring", "report.json"):
        assert word in printed
    assert set(first["scores"]) == {"FlowTime", "value regression", "user's historical median"}
    assert len(first["speed_ms_per_1000_rows"]) == 3
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == json.loads(json.dumps(first))
    if importlib.util.find_spec("matplotlib"):
        for name in ("distributions", "calibration", "speed"):
            assert (tmp_path / "a" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    second = demo.run(out=tmp_path / "b", seed=3, quick=True)
    assert first["scores"] == second["scores"]


def test_scores_of_draws_and_of_points():
    train, test = split(300, 1), split(40, 2)
    draws = torch.rand(40, 9, generator=torch.Generator().manual_seed(0)) * 30
    found = evaluation.evaluate(train, test, draw=lambda rows: draws[rows["row"] - 2000]).numbers
    median = draws.median(dim=1).values
    assert found["mae"] == pytest.approx(float((test["y"] - median).abs().mean()), rel=1e-6)
    assert found["xauc"] == ops.xauc(test["y"], median).value
    assert found["crps"] == pytest.approx(float(ops.crps(draws[:, ::2], test["y"], fair=True).mean()), rel=1e-6)
    low, high = np.quantile(draws.numpy(), [0.1, 0.9], axis=1)
    inside = (low <= test["y"].numpy()) & (test["y"].numpy() <= high)
    assert found["interval80"] == pytest.approx(inside.mean())
    point = evaluation.evaluate(train, test, predict=lambda x: x["q_user"][:, 3])
    assert point.draws is None
    assert point.numbers["crps"] == point.numbers["mae"] == ops.mae(test["y"], test["q_user"][:, 3])
    assert point.numbers["interval80"] is None


def test_bins_are_of_equal_mass_with_duplicates_merged():
    edges = evaluation.bins(torch.cat((torch.zeros(500), torch.arange(1, 501.0))))
    assert edges[0] == 0
    assert (np.diff(edges) > 0).all()
    assert len(edges) < 51


def test_the_place_of_the_truth_is_uniform_for_a_calibrated_sample():
    g = torch.Generator().manual_seed(0)
    draws, y = torch.rand(4000, 33, generator=g).sort(dim=1).values, torch.rand(4000, generator=g)
    edges = np.linspace(0, 1, 21)
    assert np.abs(plots._mass_below(edges, y, draws) - edges).max() < 0.03


def test_a_speed_is_a_ratio_of_times():
    assert speed.Speed("x", 6.0, 2.0).ratio == 3.0
