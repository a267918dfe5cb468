"""DiffoR's quality run, on a tiny table: what it writes, what a second run keeps, and its Markdown."""

import json
import sys

import pytest


@pytest.fixture
def bench(programs):
    return programs("quality_diffor")


def quality(program, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["quality_diffor.py", "--data", "ESL", "--quick", "--draws", "6", *args])
    program.main()


@pytest.mark.slow
def test_results_are_kept_and_become_a_table(bench, monkeypatch, tmp_path):
    program, table = bench
    file = tmp_path / "quality_diffor.json"
    quality(program, monkeypatch, "--json", str(file), "--models", "value regression", "DiffoR")
    quality(program, monkeypatch, "--json", str(file), "--models", "median of the training targets")
    models = json.loads(file.read_text())["ESL"]["models"]
    assert list(models) == ["value regression", "DiffoR", "median of the training targets"]
    assert models["DiffoR"]["how"]["epochs"] == 2
    monkeypatch.setattr(program, "run", lambda *a: pytest.fail("what is there is run again"))
    quality(program, monkeypatch, "--json", str(file), "--models", "value regression", "DiffoR")
    assert json.loads(file.read_text())["ESL"]["models"] == models
    monkeypatch.setattr(program, "run", lambda name, seed, *a: {**models["DiffoR"]["runs"][0], "seed": seed, "mae": 9.0})
    quality(program, monkeypatch, "--json", str(file), "--models", "DiffoR", "--train-every", "2")
    assert json.loads(file.read_text())["ESL"]["models"]["DiffoR"]["mean"]["mae"] == 9.0  # other settings, another run
    file.write_text(json.dumps({"ESL": {"models": models, "about": json.loads(file.read_text())["ESL"]["about"]}}))
    assert 0 <= models["DiffoR"]["mean"]["interval80_holds"] <= 1
    text = table.rendered(json.loads(file.read_text()))
    lines = text.splitlines()
    assert lines[0].startswith("ESL: MAE of the draws' median")
    assert "--models" in lines[1]
    rows = {cells[1]: cells for line in lines[5:] if (cells := [c.strip() for c in line.split("|")])}
    assert float(rows["DiffoR"][3].split(" ± ")[0]) == pytest.approx(models["DiffoR"]["mean"]["mae"], rel=1e-3)
    assert rows["DiffoR"][7].endswith("%")
    assert rows["value regression"][7] == rows["median of the training targets"][5] == ""  # a point; all predictions the same
    assert table.rendered({}) == ""


def test_the_ablations_are_flags_of_the_model(bench):
    program, _ = bench
    for options in (*program.ABLATIONS.values(), *program.PAPERS.values()):
        program.DiffoR(dense_width=3, T=20, **options)


def test_ablations_run(bench, monkeypatch, tmp_path):
    program, _ = bench
    file = tmp_path / "a.json"
    quality(program, monkeypatch, "--ablations", "--json", str(file), "--models", "(f) without both", "(b) flow matching")
    assert set(json.loads(file.read_text())["ESL"]["models"]) == {"(f) without both", "(b) flow matching"}
