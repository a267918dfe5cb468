"""bench/gpu.sh without a GPU: a dry run of both calls, and what they say of a kernel that is wrong, hangs or crashes."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not part of this package")
FILES = {"one": ("smoke", "memcheck"), "two": ("smoke", "bench", "compiled")}
LOGS = {"one": ("info", "smoke", "tests", "memcheck"), "two": ("warm", "bench_encode_increments", "compiled_encode_increments")}


@pytest.fixture
def smoke(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    for name in [n for n in sys.modules if n in ("cases", "gpu_smoke", "op_names") or n.startswith("cases.")]:
        monkeypatch.delitem(sys.modules, name)
    import gpu_smoke

    return gpu_smoke


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("call", FILES)
def test_dry_run(call, tmp_path):
    pytest.importorskip("triton")
    env = {**os.environ, "GPU_SH_DRY_RUN": "1", "PYTHON": sys.executable, "ORDKERNELS_CUDA_EMULATE": ""}
    run = subprocess.run(["bash", str(BENCH / "gpu.sh"), call, str(tmp_path)], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{name}.jsonl" for name in FILES[call]} | {"logs.tar.gz"} | ({"tests.xml"} if call == "one" else set())
    with tarfile.open(tmp_path / "logs.tar.gz") as logs:
        assert {f"./{name}.log" for name in LOGS[call]} | {"./clocks.csv"} <= set(logs.getnames())
    checked = lines(tmp_path / "smoke.jsonl")
    assert [(line["op"], line["ok"]) for line in checked if line["backend"] == "triton"] == [("encode_increments", True)]
    assert [line["why"] for line in checked if line["backend"] == "cuda"] != [""]
    if call == "two":
        for name, other in (("bench", "eager"), ("compiled", "compile")):
            (row,) = lines(tmp_path / f"{name}.jsonl")
            assert row["device"] == "a fake GPU"
            assert row["rejected"] == row["not_graphed"] == {}
            assert set(row["ms"]) == {"ordkernels", other}
            assert row["launch_us"] > 0


def test_usage():
    run = subprocess.run(["bash", str(BENCH / "gpu.sh"), "three", "out"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "usage: bash bench/gpu.sh one|two OUTDIR\n")


def test_a_wrong_kernel_and_one_that_raises_have_a_line_each(smoke):
    def raises():
        raise RuntimeError("an illegal memory access\nand more")

    def refuses():
        raise RuntimeError("crps cannot run on the backend 'cuda': no")

    assert smoke._checked("right", 1e-3, lambda: 1e-3)["ok"] is True
    for error in (2e-3, float("nan"), float("inf")):
        assert smoke._checked("wrong", 1e-3, lambda error=error: error)["ok"] is False
    assert smoke._checked("raises", 1, raises) == {"case": "raises", "ok": False, "why": "RuntimeError: an illegal memory access"}
    assert smoke._checked("refuses", 1, refuses)["ok"] is None


@pytest.mark.parametrize(
    ("program", "why"), [("import time; time.sleep(60)", "over 1 s"), ("raise SystemExit('it broke')", "exit 1: it broke")]
)
def test_a_process_that_hangs_or_crashes_costs_its_op_alone(smoke, tmp_path, monkeypatch, capsys, program, why):
    script = tmp_path / "script.py"
    script.write_text(f'import sys; print(\'{{"op": "rng", "ok": true}}\', flush=True)\nif \'crps\' in sys.argv: {program}\n')
    monkeypatch.setattr(smoke, "__file__", str(script))
    out = tmp_path / "out.jsonl"
    arguments = ["rng", "crps", "--backends", "triton", "--processes", "2", "--seconds", "1", "--json", str(out)]
    assert smoke.main(arguments) == 1
    crashed = {"backend": "triton", "op": "crps", "case": "the process", "ok": False, "why": why}
    assert sorted(map(str, lines(out))) == sorted(map(str, [{"op": "rng", "ok": True}] * 2 + [crashed]))
    assert capsys.readouterr().out == f"wrong: crps on triton, the process: {why}\n2 cases are right, 1 wrong, 0 skipped\n"


def test_launch_cost_counts_launches_and_times_calls():
    pytest.importorskip("triton")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"ORDKERNELS_CUDA_EMULATE": ""}
    command = [sys.executable, str(BENCH / "launch_cost.py"), "rng", "windowed_value"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"(rng .* 1 launches +\d+\.\d us\n){2}windowed_value .* 3 launches +\d+\.\d us\n", run.stdout)
