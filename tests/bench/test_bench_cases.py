"""The benchmarks' check of results on tiny shapes: ours and every baseline agree with the expected results. Nothing is timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ordkernels.testing import timing

BENCH = Path(__file__).parents[2] / "bench"
ON_ARRAYS = ("histogram_jsd", "history_quantiles", "leave_one_out_quantiles", "segment_quantiles", "vocabulary", "xauc")
OPS = tuple(sorted(path.stem for path in BENCH.glob("cases/[a-z]*.py")))
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not part of this package")


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    for name in [n for n in sys.modules if n in ("cases", "op_names") or n.startswith("cases.")]:
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


def test_every_file_is_an_op(cases):
    assert cases.NAMES == OPS
    assert {"crps", "planar_flow", "value_decode", *ON_ARRAYS} <= set(OPS)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_run_of_every_case_is_right(op, cases, run):
    found = list(cases.cases(op, "cpu", "tiny"))
    assert found
    for case in found:
        right, wrong = run.check(case)
        assert not wrong, (case.name, wrong)
        assert case.tolerance <= 1e-3
        assert set(right) == set(case.runs)
        assert cases.OURS in right
        assert case.bytes > 0
        for target in case.targets:
            assert target.against in ("best baseline", "limit", "memory") or target.against in case.runs


def test_wrong_and_failing_runs_are_rejected(cases, run):
    expected = np.arange(4.0)
    runs = {
        "right": lambda: expected * (1 + 1e-6),
        "off": lambda: expected + 0.1,
        "shape": lambda: expected[:3],
        "nan": lambda: np.where(expected == 2, np.nan, expected),
        "less": lambda: (),
        "raises": lambda: 1 / 0,
    }
    right, wrong = run.check(cases.Case("op", "name", runs, lambda: (expected,), 1e-4, bytes=1))
    assert list(right) == ["right"]
    assert set(wrong) == set(runs) - {"right"}
    assert wrong["raises"] == "ZeroDivisionError: division by zero"


def test_a_case_is_run_and_judged(cases, run):
    x = torch.randn(100)
    case = cases.Case(
        "op", "double", {cases.OURS: lambda: x * 2, "baseline": lambda: x + x, "bad": lambda: x * 3}, lambda: (x.double() * 2,), 1e-6,
        bytes=800, flops=100, targets=[cases.Target("some", "best baseline", 0.0), cases.Target("none", "limit", 1e9)],
    )  # fmt: skip
    row = run.run_case(case, seconds=0.01, flop_rate=1e9)
    assert row["best_baseline"] == "baseline"
    assert set(row["ms"]) == {cases.OURS, "baseline"}
    assert "bad" in row["rejected"]
    assert [t["met"] for t in row["targets"]] == [True, False]
    assert row["limit_ms"] > 0


def test_interleaved_takes_turns_and_medians():
    calls = []
    times = timing.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0, rounds=(3, 3), warm=1, sample=0)
    assert set(times) == {"a", "b"}
    assert all(t.n >= 3 and t.low <= t.median <= t.high for t in times.values())
    assert calls[:4] == ["a", "a", "b", "b"]  # each warmed up, each tried once, then in turns
    turns = "".join(calls[4:])
    assert turns.count("ab") >= 3


def test_peak_memory_sees_an_allocation():
    extra = timing.peak_extra_memory(lambda: torch.ones(1 << 24))  # 64 MiB
    if extra is None:
        pytest.skip("this system does not tell")
    assert 0.9 * (1 << 26) < extra < 1.5 * (1 << 26)


def _made_up_training():
    """A step that takes 10 ms and 1 MB, 25 ms and 4 MB in plain torch, and scoring five times as fast as plain torch."""
    rows = []
    both = {"step": {"ordkernels": 10.0, "eager": 25.0, "compile": 30.0}, "scoring, 32 draws": {"ordkernels": 2.0, "eager": 10.0}}
    for what, ms in both.items():
        times = {name: {"median": t, "low": t, "high": t, "n": 1} for name, t in ms.items()}
        rows.append({
            "op": "training", "case": f"FlowTime, {what} B=1024", "ms": times, "threads": 1, "errors": {}, "rejected": {}, "missing": {},
            "context": [], "targets": [], "bytes": 1, "flops": 1, "ratio": 2.5, "best_baseline": "eager", "share_of_limit": 0.5,
            "limit_ms": 1.0, "limit_by": "bytes", "GBs": 1.0, "peak_extra_bytes": {"ordkernels": 1 << 20, "eager": 4 << 20},
        })  # fmt: skip
    return rows


def test_generated_documents(monkeypatch, tmp_path, cases, run):
    monkeypatch.delitem(sys.modules, "table", raising=False)
    import table

    x = torch.randn(100)
    case = cases.Case("op", "double", {cases.OURS: lambda: x * 2, "baseline": lambda: x + x}, lambda: (x.double() * 2,), 1e-6, bytes=800)
    report = run.about("cpu") | {
        "command": "python bench/run.py op",
        "limits": [{"threads": 1, "copy_GBs": 10.0, "gemm_float32_GFLOPs": 50.0}],
        "results": [run.run_case(case, seconds=0.01, flop_rate=1e9) | {"threads": 1}, *_made_up_training()],
    }
    results = tmp_path / "bench/results"
    results.mkdir(parents=True)
    (results / "cpu_op.json").write_text(json.dumps(report | {"scaling": []}))
    for name in ("speed", "quality"):
        (results / f"about_{name}.md").write_text(f"About {name}: not yet measured.\n")
    readme = tmp_path / "README.md"
    blocks = [f"{table.BEGIN.format(name)}\nold\n{table.END.format(name)}\n" for name in ("headline", "models", "functions")]
    readme.write_text(f"before\n{''.join(blocks)}after\n")
    for name, value in (
        ("HERE", tmp_path / "bench"),
        ("ROOT", tmp_path),
        ("QUALITY", {}),
        ("HEADLINES", [table.Headline("op: double", "twice")]),
        ("FUNCTIONS", [table.Headline("op: double", "doubled")]),
        ("MODELS", ["FlowTime"]),
    ):
        monkeypatch.setattr(table, name, value)
    assert table.main(["--check"]) == 1
    assert "old" in readme.read_text()
    assert table.main([]) == table.main(["--check"]) == 0
    text = readme.read_text()
    assert "| FlowTime | 10 ms | 25 ms | 30 ms | 2.5x | 4.0x less | 5.0x |" in text
    assert text.startswith("before\n")
    assert text.endswith(f"{table.END.format('functions')}\nafter\n")
    assert "old" not in text
    assert "| twice |" in text
    assert "| doubled |" in text
    assert "`python -m ordkernels bench op`" in text
    speed = (tmp_path / "bench/RESULTS.md").read_text()
    assert "| op: double |" in speed
    assert "| op: double | 1 |" in speed
    assert "speedup, 1 thread |" in speed
    assert "not yet measured" in speed
    assert "target" not in speed


@pytest.mark.parametrize("op", OPS)
def test_scalings_run_at_every_tiny_size(op, cases):
    found = list(cases.scalings(op, "cpu", "tiny"))
    assert found
    for scaling in found:
        for n in scaling.sizes:
            assert scaling.make(n)() is not None
            assert scaling.per(n) > 0


def test_the_expected_quantiles_are_numpys(cases):
    from cases import _grouped

    for n in (1, 2, 7, 100):
        x = np.random.default_rng(n).random(n)
        np.testing.assert_allclose(_grouped.quantiles(x), np.quantile(x, _grouped.LEVELS), rtol=1e-12)


def test_unknown_ops_are_named(cases):
    with pytest.raises(SystemExit, match=f"op: expected one of {', '.join(cases.NAMES)}, got 'flow'"):
        cases.load("flow")


@pytest.mark.parametrize(("old", "new"), [("scores", "crps histogram_jsd xauc"), ("flow_step", "reverse_step")])
def test_other_names_say_what_to_ask_for(old, new, run):
    with pytest.raises(SystemExit, match=f"op: '{old}' is measured by {new}"):
        run.main([old, "--quick"])


@pytest.mark.triton
def test_what_the_sanitizers_run_runs():
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("in Triton's interpreter alone, TRITON_INTERPRET=1; on a GPU bench/gpu.sh runs it")
    command = [sys.executable, str(BENCH / "gpu_smoke.py"), "--device", "cpu", "--backends", "triton"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    *lines, summary = run.stdout.splitlines()
    assert summary == f"{len(lines)} cases are right, 0 wrong, 0 skipped"
    ran = {json.loads(line)["op"] for line in lines}
    assert ran == {op for op in OPS if (BENCH.parent / "ordkernels/_triton" / f"{op}.py").exists()}


def test_rows_that_rounding_decides_are_counted_and_left_out(cases):
    """A token whose logit is the largest but for rounding is no error; another one is."""
    from cases.value_decode import Setup

    setup = Setup(4, False, "cpu")
    value, tokens = setup.ours(setup.memory)
    with torch.no_grad():  # the first row's first token, and one that is its equal, and one that is not
        first, equal, other = int(tokens[0, 0]), 5, 6
        for name in ("weight", "bias"):
            getattr(setup.decoder.linear, name)[equal] = getattr(setup.decoder.linear, name)[first]
    for token, error in ((equal, 0.0), (other, float("inf"))):
        got = tokens.clone()
        got[0] = token
        case = cases.Case(
            "op", "name", {cases.OURS: lambda got=got: (value + got[:, 0], got)}, lambda: (value + tokens[:, 0], tokens), 1e-4, bytes=1,
            ties=lambda out, expected: setup.ties(setup.memory, out, expected),
        )  # fmt: skip
        found = case.error(cases.OURS, case.expected_values())
        assert (found == 0.0) == (error == 0.0)
        assert case.tied == ({cases.OURS: 1} if error == 0.0 else {})
