"""The wheel: one for every Python, no symbols newer than manylinux_2_28's, both native parts there without a compiler."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = sorted((ROOT / "ordkernels").glob("*.abi3.so"))  # not _cuda.so, which is no Python module


@pytest.mark.skipif(not NATIVE, reason="ordkernels was built without its native parts")
def test_names_and_imports_of_the_native_parts() -> None:
    """abi3 and what it may import: of Python's limited API there is no private name."""
    assert {path.name for path in NATIVE} >= {"_C.abi3.so", "_host.abi3.so"}
    for path in NATIVE:
        symbols = subprocess.run(["nm", "-D", path], capture_output=True, text=True, check=True).stdout
        assert {"_Py_Dealloc", "_Py_NoneStruct", "_Py_TrueStruct"}.issuperset(re.findall(r" U (_Py\w+)", symbols))  # behind its macros
        assert re.findall(r" T (\w+)", symbols) == [f"PyInit_{path.name.partition('.')[0]}"]


@pytest.mark.slow
@pytest.mark.skipif(not NATIVE, reason="ordkernels was built without its native parts")
def test_a_wheel_for_every_python_and_manylinux_2_28(tmp_path: Path) -> None:
    pytest.importorskip("auditwheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    command = [*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)  # the objects are there from the last build
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(r"ordkernels-[0-9.]+-cp311-abi3-linux_x86_64\.whl", wheel.name)
    shown = subprocess.run([sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True, check=True).stdout
    constrained = re.search(r"constrains\s+the\s+platform\s+tag\s+to\s+\"manylinux_2_(\d+)_x86_64", shown)
    assert constrained, shown
    assert int(constrained[1]) <= 28, shown

    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel], check=True)
    environment = {"PYTHONPATH": f"{installed}{os.pathsep}{os.pathsep.join(sys.path)}", "PATH": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ordkernels", "info", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path).stdout)
    assert {found["parts"][part] for part in ("_host (data side)", "_C (CPU)")} == {"loaded"}


@pytest.mark.parametrize(("wish", "message"), [("1", "ORDKERNELS_CUDA=1: nvcc was not on the path"), ("yes", "expected 0 or 1, got 'yes'")])
def test_cuda_that_is_asked_for_and_cannot_be_built_ends_the_build(wish: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path]
    env = {"ORDKERNELS_CUDA": wish, "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
