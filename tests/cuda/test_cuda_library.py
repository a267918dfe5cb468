"""`_cuda.so`, where it was built (ORDKERNELS_CUDA=1): it loads, without a GPU, and has every kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ordkernels

LIBRARY = Path(ordkernels.__file__).parent / "_cuda.so"
# What a torch with CUDA has in libtorch_cuda.so; all else is in every torch.
STUB = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }'
PROGRAM = """
import sys, torch
from ordkernels import _library, _schemas
from ordkernels._cuda import FASTER
if torch.version.cuda is None:
    torch.ops.load_library(sys.argv[1])
has = torch._C._dispatch_has_kernel_for_dispatch_key
names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("ordkernels_cuda::")]
assert {name.partition("::")[2].removesuffix("_backward") for name in names} == FASTER.keys(), names
assert all(has(name, "CUDA") and not has(name, "CPU") for name in names), names
"""

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not LIBRARY.exists(), reason="built without _cuda")]


def test_every_symbol_is_found_and_every_kernel_registered(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "ORDKERNELS_CUDA_EMULATE"}
    if torch.version.cuda is None:
        stub = ["g++", "-shared", "-x", "c++", "-", "-Wl,-soname,libtorch_cuda.so", "-o", str(tmp_path / "libtorch_cuda.so")]
        subprocess.run(stub, input=STUB, text=True, check=True)
        env["LD_LIBRARY_PATH"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(LIBRARY)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
