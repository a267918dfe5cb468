"""Every Triton kernel compiles for every target without a GPU, and spills nothing."""

import os
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 makes kernels plain Python; run this file in a process without it", allow_module_level=True)

from ordkernels import _triton
from ordkernels.testing.aot import TARGETS, compile_ahead, modules

CASES = [(module.__name__.rpartition(".")[2], i, *case) for module in modules() for i, case in enumerate(module.signatures())]


@pytest.mark.aot
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2].__name__}")
def test_compiles_without_spills(case, target):
    usage = compile_ahead(*case[2:], target=target)
    assert usage.arch.startswith(f"sm_{target}")
    assert 0 < usage.registers <= 255
    assert usage.spills == 0, usage[:4]
    assert usage.shared <= 99 * 1024, usage[:4]  # fits a consumer card of the same generation too


@pytest.mark.aot
def test_every_op_lists_its_kernels():
    files = {path.stem for path in Path(_triton.__path__[0]).glob("[a-z]*.py")}
    assert {"planar_flow", "crps", "value_decode"} <= files
    assert {case[0] for case in CASES} == files


@pytest.mark.aot
def test_a_signature_that_does_not_fit_raises():
    _, _, kernel, signature, constexprs, *_ = next(case for case in CASES if case[0] == "planar_flow")
    with pytest.raises(ValueError, match="missing \\['z'\\]"):
        compile_ahead(kernel, {k: v for k, v in signature.items() if k != "z"}, constexprs, target=90)
