"""The mutation runner finds what is planted for it: kills what a test notices, reports what none does; the committed list is up to date."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tests" / "mutants"
CALCULATOR = '''"""Planted."""

LIMIT = 3


def double(x: int) -> int:
    """Tested."""
    return x * 2


def clipped(x: int) -> int:
    y = min(x, LIMIT)
    return y


def capped(x: int) -> int:
    return LIMIT if x > LIMIT else x


def untested(x: int) -> int:
    """Runs in a test that asks for nothing."""
    return x + 1


def never(x: int) -> int:
    return x - 1


def endless(n: int) -> int:
    while n > 0:
        n -= 1
    return n
'''
TESTS = """from planted.calculator import capped, clipped, double, endless, untested


def test_double():
    assert double(4) == 8


def test_clipped():
    assert [clipped(x) for x in (2, 3, 9)] == [2, 3, 3]


def test_capped():
    assert [capped(x) for x in (2, 3, 9)] == [2, 3, 3]


def test_nothing():
    untested(1)


def test_endless():
    assert endless(2) == 0
"""
SETTINGS = """[tool.mutants]
sources = ["planted/*.py"]
tests = ["tests"]
preload = []
equivalent = "equivalent.toml"
grace = 3.0
"""
EQUIVALENT = """[[mutant]]
file = "planted/calculator.py"
line = "return LIMIT if x > LIMIT else x"
changes = ["x > LIMIT -> x >= LIMIT"]
reason = "both branches are LIMIT there"
"""


def test_planted_faults(tmp_path):
    pytest.importorskip("coverage")
    (tmp_path / "planted").mkdir()
    (tmp_path / "tests").mkdir()
    for name, text in {
        "planted/__init__.py": "",
        "planted/calculator.py": CALCULATOR,
        "tests/test_calculator.py": TESTS,
        "pyproject.toml": SETTINGS,
        "equivalent.toml": EQUIVALENT,
    }.items():
        (tmp_path / name).write_text(text)

    def run(*arguments):
        command = [sys.executable, str(TOOL / "run_mutants.py"), "--root", str(tmp_path), "--jobs", "1", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    out = run()
    results = json.loads((tmp_path / "build" / "mutants" / "results.json").read_text()).values()
    status = {(r["text"], r["change"]): r["status"] for r in results}
    assert status["return x * 2", "x * 2 -> x / 2"] == "killed"
    assert status["return x * 2", "return x * 2 -> return None"] == "killed"
    assert status["y = min(x, LIMIT)", "min -> max"] == "killed"
    assert status["LIMIT = 3", "3 -> 4"] == "killed"  # runs at import
    assert status["return x + 1", "x + 1 -> x - 1"] == "survived"
    assert status["return x - 1", "x - 1 -> x + 1"] == "untested"
    assert status["n -= 1", "remove n -= 1"] == "timeout"
    assert ("return LIMIT if x > LIMIT else x", "x > LIMIT -> x >= LIMIT") not in status  # the equivalent one
    assert {r["by"] for r in results if r["change"] == "min -> max"} == {"tests/test_calculator.py::test_clipped"}
    survivors = sum(s in ("survived", "untested") for s in status.values())
    assert f"{survivors} survivors" in out
    assert f"{len(status) + 1} mutants, 1 known" in out
    assert f"{len(status) + 1} mutants, {len(status) + 1 - survivors} known" in run()  # resumed: survivors are tried again
    assert len(json.loads((tmp_path / "build" / "mutants" / "results.json").read_text())) == len(status)


def test_a_sample_is_the_same_for_its_seed(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL))
    from mutations import mutants_of
    from run_mutants import sampled

    mutants = mutants_of(ROOT, "ordkernels/reference/crps.py")
    first = sampled(mutants, 5, 1)
    assert len(first) == 5
    assert sampled(mutants[::-1], 5, 1) == first
    assert sampled(mutants, 5, 2) != first
    assert sampled(mutants, 0, 1) == mutants


def test_every_equivalent_mutant_exists(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL))
    from mutations import mutants_of

    entries = tomllib.loads((TOOL / "equivalent.toml").read_text()).get("mutant", [])
    found = {(m.path, m.text, m.change) for path in {e["file"] for e in entries} for m in mutants_of(ROOT, path)}
    for entry in entries:
        assert entry["reason"]
        for change in entry["changes"]:
            assert (entry["file"], entry["line"], change) in found
