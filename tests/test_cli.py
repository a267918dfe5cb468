"""The command line: what a person sees, and what a wrong command says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ordkernels import _backend, _info
from ordkernels.__main__ import main

ROOT = Path(__file__).parents[1]


def run(*args, cwd=ROOT, path=ROOT):
    env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_info_names_every_op_and_every_reason(capsys):
    assert main(["info", "--verbose"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert _backend.OPS
    for name in _backend.OPS:
        assert name in out
        for reasons in _backend.available_backends(name).values():
            for reason in reasons:
                assert " ".join(reason.split()) in out


def test_info_fits_a_screen_and_agrees_with_available_backends(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    legend = next(i for i, line in enumerate(lines) if line.startswith("* serves by default"))
    footnotes = dict(line.split("  ", 1) for line in lines[legend + 1 :] if not line.startswith(" "))
    assert len(set(footnotes.values())) == len(footnotes)
    marks = {}
    for name, *cells in re.findall(r"(\w+) +([*+a-z]+) +([*+a-z]+) +([*+a-z]+) +([*+a-z]+)(?:\s|$)", "\n".join(lines[:legend])):
        marks[name] = dict(zip(_backend.BACKENDS, cells, strict=True))
    for name in _backend.OPS:
        for backend, reasons in _backend.available_backends(name).items():
            mark = marks[name][backend]
            assert (mark in "*+") == (not reasons)
            if reasons:
                assert len(mark) == len(reasons)
                assert set(mark) <= set(footnotes)
        assert "*" in marks[name].values()


def test_info_keeps_every_reason_when_nothing_is_built():
    reasons = {"cpu": ["crps has no native CPU kernel"], "cuda": ["no CUDA device", "crps has no CUDA C++ kernel"]}
    found = _info.collect() | {"ops": {"crps": {"serves": {"cpu": "reference"}, "not": reasons}}}
    lines = _info.table(found).splitlines()
    (row,) = (line for line in lines if line.startswith("crps"))
    assert row.split() == ["crps", "*", "a", "+", "bc"]
    assert lines[-3:] == ["a  has no native CPU kernel", "b  no CUDA device", "c  has no CUDA C++ kernel"]


def test_info_as_json_agrees_with_available_backends(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"versions", "cpu", "threads", "gpu", "parts", "ops"} <= set(found)
    for name, op in found["ops"].items():
        against = _backend.available_backends(name)
        assert op["not"] == {backend: why for backend, why in against.items() if why}
        assert not against[op["serves"]["cpu"]]


@pytest.mark.parametrize("command", ["info", "demo"])
def test_a_stale_native_library_is_one_line(command):
    code = f"""
import sys, types, torch
library = torch.library.Library('ordkernels', 'FRAGMENT')
library.define('crps(Tensor x) -> Tensor')
sys.modules['ordkernels._C'] = types.SimpleNamespace(__file__='old/_C.abi3.so')
from ordkernels.__main__ import main
sys.exit(main(['{command}']))
"""
    done = run("-c", code)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{command}: ordkernels._C (")
    assert "rebuild it" in line


def test_isa_in_use_is_possible():
    isa = _info.isa_in_use()
    assert isa is None or isa in _info.isas_possible()


def test_help_needs_no_torch():
    code = "import sys, ordkernels.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    for word in ("info", "bench", "demo"):
        assert word in done.stdout


def test_bench_without_a_checkout_says_what_to_do(tmp_path):
    # as a wheel has it: the package's Python files, and nothing beside them
    shutil.copytree(ROOT / "ordkernels", tmp_path / "ordkernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = run("-m", "ordkernels", "bench", "planar_flow", cwd=tmp_path, path=tmp_path)
    assert done.returncode == 2
    assert "bench: expected a checkout of the repository" in done.stderr
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "required: COMMAND"),
        (["scores"], "invalid choice: 'scores'"),
        (["demo", "--seed", "-1"], "--seed: expected"),
        (["demo", "--seed", "x"], "expected a whole number from 0 up, got 'x'"),
        (["demo", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_wrong_commands_exit_with_2(argv, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert text.replace("--seed: expected", "--seed") in capsys.readouterr().err


def test_demo_without_data_says_where_it_looked(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
