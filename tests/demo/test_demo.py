"""The demo on a few hundred rows: one model's failure, what a second run does again, the tables, the scores by hand."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import torch

from ordkernels import demo, ops
from ordkernels.__main__ import main
from ordkernels.demo import evaluation, models, report, results, speed, tasks
from ordkernels.models import DiffoR, FlowTime, QuantileRegression, ValueRegression


def split(rows, seed, quantiles=20):
    g = torch.Generator().manual_seed(seed)
    y = torch.rand(rows, generator=g).mul(30) * (torch.rand(rows, generator=g) > 0.1)
    q = torch.rand(2, rows, quantiles, generator=g).mul(30).sort(dim=2).values
    earlier = {
        "long": torch.randint(0, 11, (rows, 5), generator=g), "sessions": torch.randint(0, 11, (rows, 5, 2), generator=g),
        "feedback": torch.rand(rows, 5, 2, 3, generator=g), "click": (torch.arange(rows) % 3 == 0).float(),
    }  # fmt: skip
    return {
        **earlier,
        "user": torch.randint(0, 12, (rows,), generator=g), "item": torch.randint(0, 9, (rows,), generator=g),
        "user_id": torch.randint(0, 12, (rows,), generator=g), "dense": torch.randn(rows, 6, generator=g), "y": y,
        "q_user": q[0], "q_item": q[1], "has_user": torch.ones(rows), "has_item": torch.ones(rows), "row": torch.arange(rows) + 1000 * seed,
        "duration": torch.rand(rows, generator=g).mul(60).clamp(min=5) * (torch.rand(rows, generator=g) > 0.1),
    }  # fmt: skip


def task(**changes):
    made = tasks.Task("kuairand", "KuaiRand-Pure", "s", split(96, 1), split(64, 2), 12, 9, False, seed=3, quick=True, draws=8)
    return dataclasses.replace(made, **changes)


class Calls:
    """A model of the list that counts how often it is trained, and fails on demand."""

    def __init__(self, error=None, out=7.0):
        self.count, self.error, self.out = 0, error, out

    def __call__(self, task, budget):
        self.count += 1
        if self.error:
            raise self.error
        return self

    def predict(self, x):
        return torch.full((len(x["dense"]),), self.out)


@pytest.fixture
def few(monkeypatch, request):
    """A handful of cheap entries on a tiny task; returns the counting ones. Plots are drawn in one test alone."""
    if "one_models_failure" not in request.node.name:
        monkeypatch.setattr(demo, "_plots", lambda out, rows: [])
    counted = {"steady": Calls(), "broken": Calls(RuntimeError("no\nluck")), "nan": Calls(out=float("nan"))}
    known = [models.Entry(key, f"the {key} one", calls) for key, calls in counted.items()]
    generative = models.fitted(lambda t: FlowTime(*t.sizes, latent=4, hidden=8))
    known.insert(1, models.Entry("flow", "FlowTime", generative, quick=models.Budget(1, 64), draws=True))
    known.append(models.Entry("boosting", "boosting", Calls(), needs="no_such_package"))
    monkeypatch.setattr(demo, "entries", lambda _: known)
    monkeypatch.setattr(demo, "load", lambda data, seed, quick: task(seed=seed, quick=quick))
    measure = results.measure
    monkeypatch.setattr(results, "measure", lambda *a, seconds: measure(*a, step_rows=16, score_rows=8, seconds=0.01))
    return counted


@pytest.mark.slow
def test_one_models_failure_is_a_line_of_the_table(few, tmp_path, capsys):
    found = demo.run(out=tmp_path, quick=True)["models"]
    printed = capsys.readouterr().out
    assert {key: r["status"] for key, r in found.items()} == {
        "steady": "done", "flow": "done", "broken": "failed", "nan": "failed", "boosting": "skipped",
    }  # fmt: skip
    assert "RuntimeError: no luck" in found["broken"]["reason"]
    assert "Traceback" in (tmp_path / "models" / "broken-failed.txt").read_text()
    assert "prediction: expected finite values" in found["nan"]["reason"]
    assert "first in row 2000" in found["nan"]["reason"]
    assert "no_such_package is not installed" in found["boosting"]["reason"]
    for text in (
        "MAE, s",
        "XAUC",
        "PDF-U",
        "PDF-I",
        "CRPS, s",
        "80 %",
        "train, ms",
        "score, ms",
        "RuntimeError",
        "training step",
        "scoring",
    ):
        assert text in printed
    assert [s["what"] for s in found["flow"]["speed"]] == ["training step", "scoring, 32 draws"]
    assert json.loads((tmp_path / "report.json").read_text())["models"].keys() == found.keys()
    if importlib.util.find_spec("matplotlib"):
        for name in ("distributions", "calibration", "latency", "speed"):
            assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_trains_only_what_is_not_there_for_these_settings(few, tmp_path, capsys):
    first = demo.run(out=tmp_path, quick=True, seed=1)["models"]
    again = demo.run(out=tmp_path, quick=True, seed=1)["models"]
    assert "by an earlier run" in capsys.readouterr().out
    assert (few["steady"].count, few["broken"].count) == (1, 2)  # what failed is tried again
    assert again["flow"]["scores"] == first["flow"]["scores"]
    few["broken"].error = None
    mended = demo.run(out=tmp_path, quick=True, seed=1)["models"]
    assert mended["broken"]["status"] == "done"
    assert not (tmp_path / "models" / "broken-failed.txt").exists()
    demo.run(out=tmp_path, quick=True, seed=2)
    demo.run(out=tmp_path, quick=False, seed=1)
    assert few["steady"].count == 3
    demo.run(out=tmp_path, quick=True, seed=1, models=["steady"], fresh=True)
    assert (few["steady"].count, few["nan"].count) == (4, 5)


def test_a_file_cut_short_is_made_again(few, tmp_path):
    demo.run(out=tmp_path, models=["steady"])
    (file,) = (tmp_path / "models").glob("steady-*.json")
    file.write_text(file.read_text()[:40])
    assert demo.run(out=tmp_path, models=["steady"])["models"]["steady"]["status"] == "done"
    assert few["steady"].count == 2


def test_what_is_scored_survives_a_failing_timing(few, tmp_path, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise RuntimeError("no clock")

    monkeypatch.setattr(results, "measure", fails)
    found = demo.run(out=tmp_path, models=["flow"])["models"]["flow"]
    assert (found["status"], found["speed"]) == ("done", "RuntimeError: no clock")
    assert "failed: RuntimeError: no clock" in capsys.readouterr().out


def test_same_seed_same_scores_whichever_models_run(few, tmp_path):
    whole = demo.run(out=tmp_path / "a", seed=3)["models"]["flow"]
    alone = demo.run(out=tmp_path / "b", seed=3, models=["flow"])["models"]["flow"]
    other = demo.run(out=tmp_path / "c", seed=4, models=["flow"])["models"]["flow"]
    assert whole["scores"] == alone["scores"] != other["scores"]


def test_settings_change_with_all_that_numbers_depend_on(tmp_path):
    entry = models.Entry("x", "x", Calls(), full=models.Budget(4))
    data, code = results.fingerprint(task())
    files = {results.file_of(tmp_path, results.settings(entry, t, d, c)) for t, d, c in (
        (task(), data, code), (task(seed=4), data, code), (task(quick=False), data, code), (task(draws=9), data, code),
        (task(), results.fingerprint(task(test=split(64, 9)))[0], code), (task(), data, "other"),
    )}  # fmt: skip
    assert len(files) == 6
    assert results.fingerprint(task()) == (data, code)


def test_unknown_names_are_told_what_there_is(few, tmp_path, capsys):
    assert main(["demo", "--models", "steady", "floww", "--out", str(tmp_path / "out")]) == 2
    assert "expected some of steady, flow, broken, nan, boosting, got 'floww'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["demo", "--models", "broken", "--out", str(tmp_path / "out")]) == 1
    assert main(["demo", "--models", "steady", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_the_real_entries_train_and_score_on_tiny_data():
    for entry in models.WATCH_TIMES:
        if entry.needs and not importlib.util.find_spec(entry.needs):
            continue
        model = entry.train(task().every(2), models.Budget(1, 64))
        x = evaluation.inputs(task().test)
        out = model.sample(x, 4, 0, x["row"]) if entry.draws else model.predict(x)
        assert list(out.shape) == [64, 4] if entry.draws else [64]
        assert bool(out.isfinite().all())
        if entry.clicks:
            assert 0 < evaluation.click_auc(task().test, lambda rows, entry=entry, model=model: entry.clicks(model, rows)) < 1


def test_clicks_are_compared_with_both_poolings():
    made = {"ifusion": 0.75, "average": 0.7, "attention": 0.5 + 0.25 / 1.02, "gr": None}
    results = {key: {"name": key, **({} if auc is None else {"click_auc": auc})} for key, auc in made.items()}
    lines = report.click_table(results).splitlines()
    assert lines[1].split() == ["ifusion", "0.7500", "+25.00%", "+2.00%"]
    assert lines[2].split()[:3] == ["average", "0.7000", "-"]
    assert len(lines) == 5
    assert report.click_table({"gr": results["gr"]}) == ""


@pytest.mark.parametrize("name", ["abalone", "wine", "cdnow"])
def test_tables(name, tmp_path, monkeypatch):
    load = tasks.load

    def small(data, seed, quick):
        made = load(data, seed, quick)
        return dataclasses.replace(
            made, train={k: v[:300] for k, v in made.train.items()}, test={k: v[:50] for k, v in made.test.items()}, draws=4
        )

    monkeypatch.setattr(demo, "load", small)
    monkeypatch.setattr(results, "measure", lambda *a, seconds: [])
    monkeypatch.setattr(models.Budget, "epochs", 1)
    found = demo.run(name, tmp_path, quick=True)["models"]
    assert {r["status"] for r in found.values()} <= {"done", "skipped"}, found
    assert ("classes" in found) == (name != "cdnow")
    assert "pdf_user" not in found["diffor"]["scores"]


def test_data_by_name_or_folder(tmp_path):
    assert tasks.load("abalone", 0, True).sizes == (0, 0, 10)
    assert not tasks.load("cdnow", 0, True).discrete
    with pytest.raises(FileNotFoundError, match=r"Data sets: kuairand, cdnow, .*abalone"):
        tasks.load("abalon", 0, True)


def test_networks_see_quantile_bins_and_boosting_the_numbers():
    pytest.importorskip("sklearn")
    made = tasks.load("cdnow", 0, quick=True)
    assert made.numbers < made.sizes[2]
    assert made.test["dense"].shape[1] == made.sizes[2]
    boosting = next(e for e in models.entries(made) if e.key == "boosting").train(made.every(8), models.Budget(2))
    assert boosting.model.n_features_in_ == made.numbers
    assert boosting.predict(made.test).shape == made.test["y"].shape


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
    both = evaluation.evaluate(train, test, predict=lambda x: x["q_user"][:, 3], draw=lambda rows: draws[rows["row"] - 2000]).numbers
    assert (both["mae"], both["xauc"]) == (point.numbers["mae"], point.numbers["xauc"])
    assert (both["crps"], both["interval80"]) == (found["crps"], found["interval80"])
    with pytest.raises(ValueError, match=r"draws: expected \[B, n\] with B = 40, got \[40\]"):
        evaluation.evaluate(train, test, draw=lambda rows: rows["y"])


def test_bins_are_of_equal_mass_with_duplicates_merged():
    edges = evaluation.bins(torch.cat((torch.zeros(500), torch.arange(1, 501.0))))
    assert edges[0] == 0
    assert (np.diff(edges) > 0).all()
    assert len(edges) < 51


def test_a_calibrated_sample_looks_calibrated():
    g = torch.Generator().manual_seed(0)
    draws, y = torch.rand(4000, 33, generator=g).sort(dim=1).values, torch.rand(4000, generator=g)
    edges = np.linspace(0, 1, 21)
    assert np.abs(evaluation.mass_below(edges, y, draws) - edges).max() < 0.03
    found = evaluation.calibration(y, draws)
    assert np.abs(np.array(found["coverage"]) - evaluation.LEVELS).max() < 0.06  # of 33 draws, (33 - 1) / (33 + 1) of the level
    assert np.mean(found["pit_density"]) == pytest.approx(1)


def test_shares_of_users_add_up():
    test = split(200, 2)
    for user in evaluation.shares_of_users(test, torch.rand(200, 8) * 30):
        assert sum(user["true"]) == pytest.approx(1)
        assert sum(user["drawn"]) == pytest.approx(1)


def test_speed_is_measured_without_touching_the_model():
    t = task()
    model = DiffoR(*t.sizes, latent=8, heads=2, denoiser="mlp", T=4)
    model.prepare(t.train)
    before = {name: v.clone() for name, v in model.state_dict().items()}
    found = speed.measure(model, t.train, t.test, step_rows=16, score_rows=8, seconds=0.01)
    assert all(s["ratio"] == pytest.approx(s["reference_ms"] / s["ours_ms"], rel=0.01) for s in found)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    network = QuantileRegression(*t.sizes)  # draws, too, by the one method that all of them have
    assert all(s["ours_ms"] > 0 for s in speed.measure(network, t.train, t.test, step_rows=16, score_rows=8, seconds=0.01))


def test_a_point_has_no_interval_and_a_table_no_groups():
    done = {"status": "done", "name": "x", "train_ms_per_1000_rows": 1.0, "score_ms_per_1000_rows": 20.0}
    row = {**done, "scores": {"mae": 1.0, "xauc": 0.5, "crps": 1.0, "interval80": None}}
    text = report.table([row], task(n_users=0, n_items=0, unit=""))
    assert "PDF" not in text
    assert text.splitlines()[1].split() == ["x", "1.0000", "0.5000", "1.0000", "-", "1.00", "20"]


def test_point_models_have_no_speed():
    assert results._speed(models.Entry("x", "x", Calls()), task(), ValueRegression(12, 9, 6)) == []
    assert report.speed_table([{"name": "x", "speed": []}]).strip() == "none of these models draws"


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"status": "done"}', '{"status": "failed"}', "[" * 100_000])
def test_a_saved_file_that_is_no_result_is_computed_again(tmp_path, monkeypatch, text):
    run_settings = {"model": "fake"}
    results.file_of(tmp_path, run_settings).write_text(text)
    monkeypatch.setattr(results, "_train_and_score", lambda entry, task: {"status": "done", "scores": {"mae": 1.0}, "model": None})
    monkeypatch.setattr(results, "_speed", lambda entry, task, model: [])
    entry = type("Entry", (), {"key": "fake", "name": "fake", "needs": None})()
    assert results.make(entry, None, tmp_path, run_settings, False)["scores"] == {"mae": 1.0}
    assert results.make(entry, None, tmp_path, run_settings, False)["reused"]
