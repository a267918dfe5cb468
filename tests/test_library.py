"""The library of torch ops: its native part without Python's, Python's without the native one, and both at once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ordkernels import _backend, _library, _schemas, ops

NATIVE = next(iter(Path(_library.__file__).parent.glob("_C*.so")), None)
needs_native = pytest.mark.skipif(NATIVE is None, reason="ordkernels was built without _C")
CRPS = "torch.ops.ordkernels.crps(torch.tensor([[0.0, 2.0]]), torch.tensor([1.0]), False, 0)[0].item()"


def run(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(_library.__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@needs_native
def test_the_native_library_alone_defines_the_ops() -> None:
    code = f"import sys, torch; torch.ops.load_library({str(NATIVE)!r}); print({CRPS}, 'ordkernels' in sys.modules)"
    assert run(code) == "0.5 False"


@needs_native
def test_the_native_library_before_the_package() -> None:
    code = f"import torch; torch.ops.load_library({str(NATIVE)!r}); from ordkernels import ops; print({CRPS}, ops.crps([[0, 2]], [1]))"
    assert run(code) == "0.5 [0.5]"


def test_python_defines_what_the_native_library_does_not() -> None:
    """Without `_C` everything, and with one that is older than the newest op that op."""
    code = "import sys, torch; sys.modules['ordkernels._C'] = None; import ordkernels.ops; "
    assert run(code + f"print({CRPS}, *torch.ops.ordkernels.crps.default.tags)") == "0.5 Tag.pt2_compliant_tag"
    code = "from ordkernels import _schemas; _schemas.SCHEMAS['newer'] = ('(Tensor x) -> Tensor', None); from ordkernels import _library; "
    assert run(code + "print(_library.op('newer')._schema)") == "ordkernels::newer(Tensor x) -> Tensor"


def test_every_schema_is_defined_once_with_its_tag() -> None:
    assert ops  # defines them
    for schema in _schemas.definitions():
        kernel = _library.op(schema.partition("(")[0])
        assert torch._C.parse_schema(f"ordkernels::{schema}") == kernel._schema
        assert torch.Tag.pt2_compliant_tag in kernel.tags


# What a library of other sources leaves behind: an op with another schema, or (before `_C` had schemas) kernels alone.
OTHER_SCHEMA = "define('crps(Tensor samples, Tensor y) -> Tensor')"
NO_SCHEMA = "impl('crps', lambda *x: None, 'CPU')"


@pytest.mark.parametrize(("does", "got"), [(OTHER_SCHEMA, "ordkernels::crps(Tensor samples, Tensor y) -> Tensor"), (NO_SCHEMA, "none")])
def test_a_stale_native_library_says_rebuild(does: str, got: str) -> None:
    code = f"""
import sys, types, torch
library = torch.library.Library('ordkernels', 'FRAGMENT')
library.{does}
sys.modules['ordkernels._C'] = types.SimpleNamespace(__file__='old/_C.abi3.so')
try:
    import ordkernels.ops
except ImportError as e:
    print(e)
"""
    said = run(code)
    assert said.startswith(
        "ordkernels._C (old/_C.abi3.so) was built from another version of ordkernels; rebuild it: in the checkout, `make"
    )
    assert "`pip install --force-reinstall --no-deps .`" in said
    assert "expected crps(Tensor samples, Tensor y, " in said
    assert said.endswith(f"got {got}")


@pytest.mark.skipif(_backend.host_module() is None, reason="ordkernels was built without _host")
def test_functions_of_the_data_side_are_those_that_python_expects() -> None:
    names = {name for name in dir(_backend.host_module()) if not name.startswith("__")}
    assert names == set(_backend.HOST_FUNCTIONS)


@pytest.mark.parametrize(("errors", "got"), [("None", "none"), ("types.SimpleNamespace(__doc__='03')", "3 arguments")])
def test_a_stale_data_side_says_rebuild_and_does_not_serve(errors: str, got: str) -> None:
    code = f"""
import sys, types
host = types.SimpleNamespace(__file__='old/_host.abi3.so', coverage=types.SimpleNamespace(__doc__='04'), errors={errors})
sys.modules['ordkernels._host'] = host
from ordkernels import _backend, scores
print(scores.mae([1.0], [3.0]), _backend.host_reason())
"""
    said = run(code)
    assert said.startswith("2.0 ordkernels._host (old/_host.abi3.so) was built from another version of ordkernels; rebuild it: in the")
    assert said.endswith(f"expected errors with 4 arguments, got {got}")
