"""FlowTime's and GR's quality runs on a few rows of KuaiRand: what they write, what is merged, their Markdown."""

import json
import sys
from pathlib import Path

import pytest

from ordkernels.data import kuairand

BENCH = Path(__file__).parents[2] / "bench"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not part of this package")]


@pytest.fixture(scope="module")
def rows():
    train, test = kuairand()
    return {name: v[::100] for name, v in train.items()}, {name: v[::800] for name, v in test.items()}


@pytest.fixture
def run(monkeypatch, tmp_path, rows, programs):
    """run(program, *arguments) -> (the report, table.py)."""
    quality_flowtime, quality_gr, table = programs("quality_flowtime", "quality_gr")
    monkeypatch.setattr(quality_flowtime, "CURVE_BATCH", 256)
    monkeypatch.setattr(quality_flowtime, "CURVE_ROWS", 1024)
    modules = {"flowtime": quality_flowtime, "gr": quality_gr}

    def start(program, *arguments):
        file = tmp_path / f"{program}.json"
        monkeypatch.setattr(modules[program], "kuairand", lambda: rows)
        monkeypatch.setattr(sys, "argv", [f"quality_{program}.py", "--quick", "--json", str(file), *arguments])
        modules[program].main()
        return json.loads(file.read_text()), table

    return start


def test_flowtime_merges_models_and_becomes_a_table(run):
    report, _ = run("flowtime", "--draws", "8", "--models", "tab median", "FlowTime")
    assert list(report["models"]) == ["tab median", "FlowTime"]
    both, table = run("flowtime", "--draws", "8", "--merge", "--models", "value regression, Huber")
    assert both["models"]["FlowTime"] == report["models"]["FlowTime"]
    assert both["about"]["command"].startswith("python bench/quality_flowtime.py --quick --json ")
    lines = table.rendered(both).splitlines()
    cells = [c.strip() for c in next(line for line in lines if line.startswith("| FlowTime |")).split("|")]
    assert cells[2] == "1"
    assert float(cells[3].split()[0]) == pytest.approx(both["models"]["FlowTime"]["mean"]["mae"], abs=0.01)
    alone, _ = run("flowtime", "--draws", "8", "--models", "tab median")
    assert list(alone["models"]) == ["tab median"]  # without --merge


def test_the_curve_repeats_itself(run):
    report, table = run("flowtime", "--curve")
    assert report["agree"]
    assert report["repeats_itself_exactly"]
    assert len(report["losses"]["default"]) == 8
    assert "the same losses: yes" in table.curve(report)


def test_gr_has_a_line_per_readout(run):
    report, table = run("gr", "--data", "kuairand", "--draws", "4", "--every", "1", "--models", "value regression", "GR")
    assert list(report["kuairand"]["models"]) == ["value regression", "GR, greedy", "GR, median", "GR, mean"]
    assert report["kuairand"]["about"]["seeds"] == 1
    assert "| GR, median | 1 |" in table.rendered(report)
