"""Every example runs and prints what it promises."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ARGUMENTS = {"own_table": ["1000"], "watch_time": ["512"]}  # fewer rows


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path.stem == "watch_time"), id=path.stem) for path in EXAMPLES]
)
def test_runs(path, monkeypatch, capsys):
    if path.stem == "own_table":
        pytest.importorskip("pandas")
        pytest.importorskip("safetensors")
    if path.stem in ARGUMENTS and not (ROOT / "bench/data/kuairand_pure").is_dir():
        pytest.skip("the data is not part of this copy")
    monkeypatch.setattr(sys, "argv", [str(path), *ARGUMENTS.get(path.stem, [])])
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 1


def test_each_says_how_to_run_it():
    assert len(EXAMPLES) >= 5
    for path in EXAMPLES:
        assert f"python examples/{path.name}" in path.read_text().split('"""')[1]


@pytest.mark.slow
def test_one_call_equals_the_loop(capsys):
    runpy.run_path(str(ROOT / "examples/diffusion.py"), run_name="__main__")
    assert float(capsys.readouterr().out.rsplit(maxsplit=1)[-1]) < 1e-4
