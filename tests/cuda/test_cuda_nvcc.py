"""nvcc compiles every kernel for every target, without a warning and without a spill; registers are those of resources.json."""

import json
import shutil
from pathlib import Path

import compile_cuda
import pytest
from emulated import EMULATED

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the path"),
    pytest.mark.skipif(not EMULATED, reason="once in `make test`, with the emulated kernels"),
]


@pytest.mark.parametrize("source", [*compile_cuda.sources(), compile_cuda.HERE / "selftest.cu"], ids=lambda path: path.stem)
def test_resources(source: Path) -> None:
    """After a change of kernels: python tests/cuda/compile_cuda.py."""
    table = json.loads(compile_cuda.RESOURCES.read_text())
    found = compile_cuda.nvcc(source)
    assert found.keys() == table["kernels"][source.name].keys()
    if compile_cuda.nvcc_version() == table["nvcc"]:
        assert found == table["kernels"][source.name]
