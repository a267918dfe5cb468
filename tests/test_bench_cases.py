"""The benchmarks' correctness gate on tiny shapes: ours and every rival agree with the truth. Nothing is timed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not part of this package")


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    for name in [n for n in sys.modules if n == "cases" or n.startswith("cases.")]:
        monkeypatch.delitem(sys.modules, name)
    import cases

    monkeypatch.setattr(cases, "COMPILER", "eager")
    torch.compiler.reset()
    return cases


@pytest.fixture
def run(monkeypatch, cases):
    monkeypatch.delitem(sys.modules, "run", raising=False)
    import run

    return run


@pytest.mark.parametrize("op", ["planar_flow", "quantiles", "rng"])
def test_every_run_of_every_case_is_right(op, cases, run):
    assert op in cases.NAMES
    found = list(cases.cases(op, "cpu", "tiny"))
    assert found
    for case in found:
        right, wrong = run.gate(case)
        assert not wrong, (case.name, wrong)
        assert case.tolerance <= 1e-3
        assert set(right) == set(case.runs)
        assert cases.OURS in right
        assert case.bytes > 0
        for target in case.targets:
            assert target.against in ("best rival", "limit", "memory") or target.against in case.runs


def test_the_gate_stops_wrong_and_failing_runs(cases, run):
    truth = np.arange(4.0)
    runs = {
        "right": lambda: truth * (1 + 1e-6),
        "off": lambda: truth + 0.1,
        "shape": lambda: truth[:3],
        "nan": lambda: np.where(truth == 2, np.nan, truth),
        "less": lambda: (),
        "raises": lambda: 1 / 0,
    }
    right, wrong = run.gate(cases.Case("op", "name", runs, lambda: (truth,), 1e-4, bytes=1))
    assert list(right) == ["right"]
    assert set(wrong) == set(runs) - {"right"}
    assert wrong["raises"] == "ZeroDivisionError: division by zero"


def test_a_case_is_run_and_judged(cases, run):
    x = torch.randn(100)
    case = cases.Case(
        "op", "double", {cases.OURS: lambda: x * 2, "rival": lambda: x + x, "bad": lambda: x * 3}, lambda: (x.double() * 2,), 1e-6,
        bytes=800, flops=100, targets=[cases.Target("some", "best rival", 0.0), cases.Target("none", "limit", 1e9)],
    )  # fmt: skip
    row = run.run_case(case, seconds=0.01, flop_rate=1e9)
    assert row["best_rival"] == "rival"
    assert set(row["ms"]) == {cases.OURS, "rival"}
    assert "bad" in row["rejected"]
    assert [t["met"] for t in row["targets"]] == [True, False]
    assert row["limit_ms"] > 0


@pytest.mark.parametrize("op", ["planar_flow", "quantiles", "rng"])
def test_scalings_run_at_every_tiny_size(op, cases):
    found = list(cases.scalings(op, "cpu", "tiny"))
    assert found
    for scaling in found:
        for n in scaling.sizes:
            assert scaling.make(n)() is not None
            assert scaling.per(n) > 0


def test_unknown_ops_are_named(cases):
    with pytest.raises(SystemExit, match="op: expected one of planar_flow, quantiles, rng, got 'flow'"):
        cases.load("flow")
