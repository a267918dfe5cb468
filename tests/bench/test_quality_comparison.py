"""The comparison of all models on made-up rows: which rows each option takes, scores, differences, rivals that are kept, its Markdown."""

import json
import sys

import numpy as np
import pytest
import torch

from ordkernels.models import FlowTime

NETWORKS = ("quantile network", "FlowTime", "DiffoR", "DiffoR, last step", "GR, likelihood")


def part(rows, seed):
    r = np.random.default_rng(seed)
    dense = torch.from_numpy(r.normal(size=(rows, 2))).float()
    q = torch.rand(2, rows, 20, generator=torch.Generator().manual_seed(seed)).sort(dim=2).values
    return {
        "user": torch.from_numpy(r.integers(0, 6, rows)), "item": torch.from_numpy(r.integers(0, 8, rows)), "dense": dense,
        "q_user": q[0], "q_item": q[1], "has_user": torch.ones(rows), "has_item": torch.ones(rows), "row": torch.arange(rows),
        "y": torch.from_numpy(r.lognormal(1, 1, rows)).float() + dense[:, 0].exp(),
    }  # fmt: skip


@pytest.fixture
def bench(monkeypatch, tmp_path, programs):
    quality, table = programs("quality")
    taken = []

    def loader(name):
        def load(**options):
            taken.append((name, options))
            return part(120, 1), part(60, 2)

        return load

    for name in ("kuairand", "cdnow"):
        monkeypatch.setattr(quality, name, loader(name))
    monkeypatch.setattr(quality, "RESAMPLES", 4)

    def run(*args, expected="validation"):
        file = tmp_path / f"{expected}.json"
        monkeypatch.setattr(sys, "argv", ["quality.py", "--steps", "2", "--seeds", "0", "--draws", "4", "--json", str(file), *args])
        quality.main()
        return json.loads(file.read_text())

    return quality, table, run, taken


@pytest.mark.slow
@pytest.mark.parametrize("data", ["kuairand", "cdnow"])
def test_every_model_is_scored_beside_the_rivals(bench, data):
    quality, table, run, taken = bench
    report = run("--data", data)
    entry = report[data]
    assert list(entry["models"]) == list(quality.MODELS)
    for name, found in entry["models"].items():
        (scored,) = found["runs"]
        assert 0 < scored["mae"] < 1e4, name
        assert 0.2 < scored["xauc"] <= 1
        assert set(scored["against"]) == set() if name == "gradient boosting" else {"mae", "xauc"} <= set(scored["against"])
        assert ("crps" in scored["against"]) == (name not in quality.RIVALS)
        if "pit" in scored:
            assert sum(scored["pit"]) == pytest.approx(10, abs=0.01)
    assert len(taken) == len(quality.MODELS)
    text = table.rendered(report)
    assert "2 steps, 4 draws a row" in text
    assert all(f"| {name} |" in text for name in quality.MODELS)
    assert f"### {data}, validation rows" in text


@pytest.mark.slow
def test_rows_that_each_option_scores(bench):
    _, _, run, taken = bench
    only = ("--data", "kuairand", "--models", "training quantiles")
    for option, dates in (((), (20220425, 20220429)), (("--gap",), (20220425, 20220427)), (("--test",), None)):
        taken.clear()
        report = run(*only, *option, expected=f"rows{len(option)}{dates}")
        assert {options.get("train_dates") for _, options in taken} == {dates}
        assert list(report["kuairand"]["models"]) == ["training quantiles"]
    with pytest.raises(SystemExit):
        run("--gap")


@pytest.mark.slow
def test_kept_rivals_are_those_of_the_first_run(bench, monkeypatch, tmp_path):
    quality, _, run, _ = bench
    args = ("--data", "kuairand", "--models", "training quantiles", "--kept", str(tmp_path / "kept"))
    first = run(*args, expected="first")
    assert len(list((tmp_path / "kept").iterdir())) == len(quality.RIVALS)
    monkeypatch.setattr(quality, "_boosted", lambda *_, **__: pytest.fail("boosted again"))
    again = run(*args, expected="second")
    differences = [r["kuairand"]["models"]["training quantiles"]["runs"][0]["against"] for r in (first, again)]
    assert differences[0] == differences[1]


def test_bins_are_of_the_training_rows(bench):
    quality = bench[0]
    task = quality.Task(part(4000, 1), part(50, 2), 1.0, True, 1)
    binned = quality.with_bins(task)
    assert binned.train["dense"].shape == (4000, 6)
    other = quality.with_bins(task._replace(scored={**task.scored, "dense": task.scored["dense"] * 9}))
    assert torch.equal(other.train["dense"], binned.train["dense"])
    assert torch.equal(binned.scored["dense"][:, :2], task.scored["dense"])
    assert bool((binned.scored["dense"][:, 2:].abs() <= 1).all())


def test_the_median_of_the_draws_is_the_prediction(bench):
    quality = bench[0]
    task = quality.Task(part(80, 1), part(30, 2), 1.0, True, 1)
    model = FlowTime(6, 8, 2)
    model.prepare(task.train)
    x = {k: v for k, v in task.scored.items() if k != "y"}
    found = quality.generative(model, task, 6, mirrored=True)
    torch.testing.assert_close(found.point, model.predict(x, 6, row_ids=x["row"]).double(), rtol=1e-6, atol=0)
