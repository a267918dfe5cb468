"""Compile Triton kernels ahead of time for GPUs that need not be present: registers, spills and shared memory of each.

A module of ``ordkernels._triton`` lists what to compile in ``signatures()``: tuples ``(kernel, signature, constexprs)`` or
``(kernel, signature, constexprs, options)``: argument name -> Triton type (``"*fp32"``, ``"i32"``, ``"constexpr"``), constexpr
name -> value, ``num_warps`` and ``num_stages``. Not under ``TRITON_INTERPRET=1``: there a kernel is plain Python.
"""

import contextlib
import importlib
import io
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["TARGETS", "Usage", "compile_ahead", "modules", "usage_of"]

TARGETS = (80, 90, 100)


class Usage(NamedTuple):
    """What ptxas reports for one compiled kernel: a thread's registers, bytes it spills, a program's shared memory in bytes."""

    arch: str
    registers: int
    spills: int
    shared: int
    ptx: str


def modules() -> Iterator[ModuleType]:
    """Every module of ordkernels._triton that lists signatures, one per op."""
    from ordkernels import _triton

    for info in pkgutil.iter_modules(_triton.__path__):
        module = importlib.import_module(f"{_triton.__name__}.{info.name}")
        if hasattr(module, "signatures"):
            yield module


def compile_ahead(
    kernel: Any, signature: dict[str, str], constexprs: dict[str, Any], options: dict[str, int | None] | None = None, *, target: int
) -> Usage:
    """Compile for one compute capability as the launcher would specialise: aligned pointers, D and strides divisible by 16.

    Args:
        kernel: a `triton.jit` function.
        signature: argument -> Triton type; "constexpr" needs a value in `constexprs`.
        constexprs: argument -> value; an integer argument that has one is that constant, as Triton makes an argument that equals 1.
        options: num_warps, num_stages, maxnreg.
        target: 80, 90 or 100.

    Raises:
        ValueError: a signature that does not have the kernel's arguments.
    """
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    if sorted(names) != sorted(signature):
        missing, unknown = sorted(set(names) - set(signature)), sorted(set(signature) - set(names))
        raise ValueError(f"signature: expected {kernel.__name__}'s arguments, missing {missing}, unknown {unknown}")
    ordered = {name: "constexpr" if name in constexprs else signature[name] for name in names}
    divisible_by_16 = {
        (i,): [["tt.divisibility", 16]]
        for i, (n, t) in enumerate(ordered.items())
        if t[0] == "*" or (t == "i32" and (n == "D" or "_" in n))
    }
    source = ASTSource(fn=kernel, signature=ordered, constexprs=constexprs, attrs=divisible_by_16)
    return usage_of(triton_compile(source, target=GPUTarget("cuda", target, 32), options=options or {}))


def usage_of(compiled: Any) -> Usage:
    """Of Triton's compiled kernel."""
    ptx = compiled.asm["ptx"]
    report = _ptxas_report(ptx, compiled.metadata)
    return Usage(
        _first(r"\.target (\w+)", ptx),  # sm_90a, sm_100a
        int(_first(r"Used (\d+) registers", report)),
        int(_first(r"(\d+) bytes spill stores", report)) + int(_first(r"(\d+) bytes spill loads", report)),
        int(compiled.metadata.shared),
        ptx,
    )


def _ptxas_report(ptx: str, metadata: Any) -> str:
    """What Triton's own call of ptxas prints: other options give other registers, a kernel from Triton's cache comes without its report,
    and `cuobjdump -res-usage` on the cubin shows the stack, which is not the spills."""
    from triton import knobs
    from triton.compiler import make_backend

    printed = io.StringIO()
    with knobs.nvidia.scope(), contextlib.redirect_stdout(printed):
        knobs.nvidia.dump_ptxas_log = True
        make_backend(metadata.target).make_cubin(ptx, {}, metadata, metadata.target.arch)
    return printed.getvalue()


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"expected {pattern!r} in the compiler's output, got {text[:500]!r}")
    return found[1]
