"""The torch ops' dispatcher library: the compiled parts are loaded, if they are installed (`NOT_LOADED` says why not), then the schemas
that they did not bring are defined.

`_C` defines the schemas of `_schemas.py` as they were when it was built, so that it serves programs without Python too.
"""

import importlib
import os
import sys
import warnings
from pathlib import Path

import torch

from ._backend import stale
from ._schemas import cuda_definitions, definitions

NAMESPACE = "ordkernels"
LIB = torch.library.Library(NAMESPACE, "FRAGMENT")
CUDA_NAMESPACE = "ordkernels_cuda"  # CUDA C++: called by the launchers of `_cuda`, which the key CUDA of an op may choose
CUDA_LIB = torch.library.Library(CUDA_NAMESPACE, "FRAGMENT")
NOT_LOADED: dict[str, str] = {}
# CUDA C++ kernels compiled for the CPU (csrc/cuda/README.md), for tests: they take CPU tensors.
EMULATED_BUILD = "ORDKERNELS_CUDA_EMULATE=1 python setup.py build_ext --inplace"
EMULATED = os.environ.get("ORDKERNELS_CUDA_EMULATE") == "1"


def has_kernel(op: str, key: str) -> bool:
    """Is a kernel of this very key registered (not the reference, which serves every key)?"""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", key)


def op(name: str) -> torch._ops.OpOverload:
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _load() -> None:
    try:
        from ._build_info import NOT_BUILT  # type: ignore[import-not-found,unused-ignore]

        NOT_LOADED.update(NOT_BUILT)
    except ImportError:
        pass
    try:
        importlib.import_module("ordkernels._C")
        NOT_LOADED.pop("ordkernels._C", None)
    except ImportError as e:
        reason = NOT_LOADED.setdefault("ordkernels._C", str(e))
        warnings.warn(f"ordkernels runs on its plain torch reference, without native CPU kernels: {reason}", stacklevel=2)
    for schema in cuda_definitions():
        CUDA_LIB.define(schema)
    if EMULATED:
        _load_cuda("_cuda_emulated.so")
        return
    # By the build of torch, not by `torch.cuda.is_available()`: that starts the driver (and breaks a later fork), while the
    # library needs libtorch_cuda.so alone. On a CPU-only torch it cannot load.
    if torch.version.cuda is None:
        NOT_LOADED.setdefault("ordkernels._cuda", "this torch has no CUDA")
    elif "ordkernels._cuda" not in NOT_LOADED:
        _load_cuda("_cuda.so")


def _load_cuda(file: str) -> None:
    NOT_LOADED.pop("ordkernels._cuda", None)
    try:
        torch.ops.load_library(Path(__file__).parent / file)
    except OSError as e:
        how = f" ({EMULATED_BUILD} builds it)" if EMULATED else ""
        NOT_LOADED["ordkernels._cuda"] = f"{e}{how}"


def _define() -> None:
    """Define what `_C` has not: everything without it, and ops that are newer than it.

    Raises:
        ImportError: `_C` is from other sources than this package: schemas differ, so its kernels would be called with wrong arguments.
    """
    known = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{NAMESPACE}::")}
    for schema in definitions():
        name = schema.partition("(")[0]
        if f"{NAMESPACE}::{name}" not in known:
            LIB.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
            continue
        found = torch._C._jit_get_schemas_for_operator(f"{NAMESPACE}::{name}")  # [] where `_C` has a kernel without a schema
        if found != [torch._C.parse_schema(f"{NAMESPACE}::{schema}")]:
            difference = f"It differs in a schema: expected {schema}, got {next(iter(found), 'none')}"
            raise ImportError(stale("_C", sys.modules.get("ordkernels._C"), difference))
        if torch.Tag.pt2_compliant_tag not in op(name).tags:  # torch 2.11's stable ABI defines without tags
            op(name)._tags = [*op(name).tags, torch.Tag.pt2_compliant_tag]


_load()
_define()
