"""Which of CUDA C++ and Triton runs a call, what `info` shows, and that a forced backend is the one that runs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import EMULATED, marks

import ordkernels
from ordkernels import _backend, _cuda, _info, ops
from ordkernels._library import has_kernel
from ordkernels._schemas import CUDA_OPS, CUDA_SCHEMAS
from ordkernels.ops.nested_min import _OP as NESTED_MIN

pytestmark = marks("planar_flow")
NAMES = sorted([*CUDA_OPS, *CUDA_SCHEMAS])


def test_the_choice_is_stated_for_every_op_and_for_no_other() -> None:
    _backend.load_all()
    assert sorted(_cuda.FASTER) == NAMES == sorted(info.name for info in _backend.OPS.values() if info.cuda)
    for name in NAMES:
        assert ordkernels.available_backends(name)["cuda"] == []
        assert callable(getattr(importlib.import_module(f"ordkernels._cuda.{name}"), name))
        key = "CPU" if EMULATED else "CUDA"
        for suffix in ("", "_backward") if name in CUDA_OPS else ("",):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ordkernels_cuda::{name}{suffix}", key)
        assert has_kernel(name, "CUDA")  # of Python: it makes the choice


def test_info_shows_them() -> None:
    lines = _info.table(_info.collect()).splitlines()
    for name in NAMES:
        (row,) = (line for line in lines if name in line.split())
        cells = row.split()
        cuda = cells[cells.index(name) + 4]
        assert cuda == ("+" if EMULATED else "*")
    assert any("_cuda" in line and "loaded" in line for line in lines)


@pytest.mark.parametrize(
    ("K", "faster", "triton", "choice"),
    [
        (3, True, True, "cuda"),
        (3, False, True, "triton"),
        (3, False, False, "cuda"),
        (1000, True, True, "triton"),
        (1000, True, False, "reference"),
    ],
)
def test_the_key_cuda_takes_the_faster_that_can(K: int, faster: bool, triton: bool, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_cuda.FASTER, "nested_min", faster)
    if not triton:
        monkeypatch.setattr(_backend, "has_triton", lambda: False)
    args = torch.rand(2, K), torch.rand(K), None, 1.0
    assert NESTED_MIN._choice(args) == choice
    assert NESTED_MIN._choice((*args[:3], None, None, 1.0, 7), "_backward") == choice


@pytest.mark.skipif(not EMULATED, reason="on a GPU tensors of the CPU are rejected")
def test_tensors_of_the_cpu_run_on_the_emulated_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the native ones: the order of threads, which they know nothing of, is read at every launch."""
    calls: list[str] = []
    launcher: Any = importlib.import_module("ordkernels._cuda.nested_min")
    real = launcher.nested_min
    monkeypatch.setattr(launcher, "nested_min", lambda *args: (calls.append("cuda"), real(*args))[1])
    NESTED_MIN.launchers.clear()
    try:
        ops.nested_min(torch.rand(2, 3), torch.rand(3), 1.0)
        assert calls == []
        with ordkernels.use_backend("cuda"):
            ops.nested_min(torch.rand(2, 3), torch.rand(3), 1.0)
        assert calls == ["cuda"]
    finally:
        NESTED_MIN.launchers.clear()


@pytest.mark.skipif(not EMULATED, reason="of the emulator")
def test_a_failed_check_is_an_error_of_the_call() -> None:
    """Here the op's own, which Python's checks come before."""
    with pytest.raises(RuntimeError, match="widths: its shape does not fit"):
        torch.ops.ordkernels_cuda.nested_min(torch.rand(2, 3), torch.rand(4), None, 1.0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ORDKERNELS_CUDA_EMULATE": "1"}, "ORDKERNELS_CUDA_EMULATE: expected build_ext --inplace"),
        ({"ORDKERNELS_SANITIZE": "memory"}, "ORDKERNELS_SANITIZE: expected 'address' or 'thread'"),
    ],
)
def test_an_emulated_build_gets_into_no_wheel(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("ORDKERNELS_")} | variables
    run = subprocess.run(command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert message in run.stderr
    assert not list(tmp_path.iterdir())
