"""iFusion's quality run on a few made-up rows: what it writes, what a second run keeps, RelaImpr, its Markdown."""

import json
import sys

import numpy as np
import pytest
import torch

from ordkernels.data.sessions import user_log


def part(rows, seed):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 6, rows), rng.integers(0, 8, rows)
    click = (rng.random(rows) < 0.4).astype(np.float32)
    log = user_log(user, item, np.arange(rows) * 600_000, np.stack((click, click), axis=1), sessions=5, items=2, long=4)
    q = torch.rand(2, rows, 20, generator=torch.Generator().manual_seed(seed)).sort(dim=2).values
    return {
        **{name: torch.from_numpy(v) for name, v in log.items()},
        "user": torch.from_numpy(user), "item": torch.from_numpy(item), "dense": torch.from_numpy(rng.normal(size=(rows, 3))).float(),
        "q_user": q[0], "q_item": q[1], "has_user": torch.ones(rows), "has_item": torch.ones(rows), "row": torch.arange(rows),
        "y": torch.from_numpy(click) + 1, "click": torch.from_numpy(click),
    }  # fmt: skip


@pytest.fixture
def bench(monkeypatch, tmp_path, programs):
    quality_ifusion, table = programs("quality_ifusion")
    monkeypatch.setattr(quality_ifusion, "kuairand_sessions", lambda **dates: (part(96, 1), part(64, 2)))
    file = tmp_path / "quality_ifusion.json"

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["quality_ifusion.py", "--every", "1", "--batch", "32", "--json", str(file), *args])
        quality_ifusion.main()
        return json.loads(file.read_text())

    return quality_ifusion, table, run


@pytest.mark.slow
def test_results_are_kept_and_become_a_table(bench, monkeypatch):
    program, table, run = bench
    first = run("--seeds", "0")
    assert list(first["models"]) == list(program.MODELS)
    both = run("--seeds", "0", "1", "--models", *list(program.MODELS)[:3])
    for name, entry in both["models"].items():
        assert entry["runs"][0]["auc"] == first["models"][name]["runs"][0]["auc"]
        assert len(entry["runs"]) == (2 if name in list(program.MODELS)[:3] else 1)
    base, ours = both["models"][program.ATTENTION], both["models"][program.OURS]
    for r, b in zip(ours["runs"], base["runs"], strict=True):
        assert r["over_attention"] == pytest.approx((r["auc"] - 0.5) / (b["auc"] - 0.5) - 1)
    assert ours["mean"]["auc"] == pytest.approx(np.mean([r["auc"] for r in ours["runs"]]), abs=1e-5)
    lines = table.rendered(both).splitlines()
    assert lines[0].startswith("KuaiRand-Pure, clicks: trained on 96 of 96 rows, scored on 64 of 64 validation rows")
    cells = [c.strip() for c in next(line for line in lines if line.startswith("| iFusion |")).split("|")]
    assert cells[2] == "2"
    assert float(cells[3].split()[0]) == pytest.approx(ours["mean"]["auc"], abs=1e-4)
    monkeypatch.setattr(program, "run", lambda *a: pytest.fail("what is there is run again"))
    assert run("--seeds", "0") == both
    monkeypatch.setattr(program, "run", lambda *a: {"auc": 0.9, "logloss": 0.5, "train_s": 1.0, "score_s": 1.0})
    assert run("--seeds", "0", "--lr", "0.5", "--models", program.OURS)["models"][program.OURS]["mean"]["auc"] == 0.9


def test_the_ablations_are_flags_of_the_model(bench):
    program, *_ = bench
    for options in program.ABLATIONS.values():
        program.IFusion(6, 8, 3, latent=8, **options)
