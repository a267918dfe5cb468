"""Which backends can run an op, why the others cannot, and the context that forces one.

No torch at import: the data-side functions (quantiles, vocabulary, scores) work without it.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

__all__ = ["available_backends", "use_backend"]

BACKENDS = ("reference", "cpu", "triton", "cuda")


@dataclass
class OpInfo:
    """What exists for one op. `blocked` holds the reasons against the forced backend, so that a traced call only looks them up."""

    name: str
    host: bool = False  # NumPy in and out, `_host`; else a torch op
    native: bool = True  # for a host op: `_host` has it; else the reference alone serves it
    on_device: str = ""  # for a host op: what serves tensors that are on a GPU, if they are not brought to the CPU
    triton: str | None = None  # module below ordkernels._triton
    cuda: bool = False  # a CUDA C++ kernel
    alias_of: str | None = None  # the dispatcher op that serves it, when the names differ
    blocked: tuple[str, ...] = field(default=())


OPS: dict[str, OpInfo] = {}
_forced: str | None = None


def register(info: OpInfo) -> OpInfo:
    OPS[info.name] = info
    if _forced is not None:
        info.blocked = tuple(reasons_against(info, _forced))
    return info


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside on one backend, ``"reference" | "cpu" | "triton" | "cuda"``, or raise with the reasons why it cannot.

    The choice is taken when an op is called and kept for its backward pass. ``"reference"`` is plain torch, differentiable
    any number of times; ``"cuda"`` means CUDA C++ alone, ``"triton"`` on CPU tensors needs ``TRITON_INTERPRET=1``.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import torch, ordkernels
        >>> with ordkernels.use_backend("reference"):
        ...     z, _ = ordkernels.ops.planar_flow(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3))
        >>> z.shape
        torch.Size([1, 2])
    """
    if name not in BACKENDS:
        raise ValueError(f"name: expected one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    previous = _forced
    _force(name)
    try:
        yield
    finally:
        _force(previous)


def _force(name: str | None) -> None:
    global _forced
    _forced = name
    for info in OPS.values():
        info.blocked = tuple(reasons_against(info, name)) if name else ()


def available_backends(op: str) -> dict[str, list[str]]:
    """Backend -> ``[]`` if it can run ``op`` (a public function's name) here, else the reasons why not.

    Raises:
        ValueError: no such op.

    Example:
        >>> import ordkernels
        >>> ordkernels.available_backends("planar_flow")["reference"]
        []
    """
    load_all()
    if op not in OPS:
        raise ValueError(f"op: expected one of {', '.join(sorted(OPS))}, got {op!r}")
    return {name: reasons_against(OPS[op], name) for name in BACKENDS}


def load_all() -> None:
    """Import every module that registers an op; without torch only the data side."""
    for module in ("quantiles", "scores", "vocabulary", *(("ops", "rng") if importlib.util.find_spec("torch") else ())):
        importlib.import_module(f"ordkernels.{module}")


def reasons_against(info: OpInfo, backend: str) -> list[str]:
    if backend == "reference":
        return []
    if info.host:
        if not info.native:
            kernel = {"cpu": "native CPU", "triton": "Triton", "cuda": "CUDA C++"}[backend]
            return [f"{info.name} has no {kernel} kernel yet; its reference is vectorised"]
        if backend != "cpu":
            also = f", and on CUDA tensors by {info.on_device}" if info.on_device else ""
            return [f"{info.name} works on NumPy arrays on the CPU{also}"]
        return [] if host_module() else [host_reason()]
    return {"cpu": _against_cpu, "triton": _against_triton, "cuda": _against_cuda}[backend](info)


def _against_cpu(info: OpInfo) -> list[str]:
    from ._library import NOT_LOADED, has_kernel

    if "ordkernels._C" in NOT_LOADED:
        return [NOT_LOADED["ordkernels._C"]]
    return [] if has_kernel(info.alias_of or info.name, "CPU") else [f"{info.name} has no native CPU kernel"]


def _against_triton(info: OpInfo) -> list[str]:
    import torch

    reasons = []
    if info.triton is None:
        reasons.append(f"{info.name} has no Triton kernel")
    if importlib.util.find_spec("triton") is None:
        reasons.append("triton is not installed")
    if not interpreting() and not torch.cuda.is_available():
        reasons.append("no CUDA device (on a CPU: Triton's interpreter, TRITON_INTERPRET=1 before the first import)")
    return reasons


def _against_cuda(info: OpInfo) -> list[str]:
    import torch

    from ._library import NOT_LOADED

    reasons = []
    if not info.cuda:
        reasons.append(f"{info.name} has no CUDA C++ kernel" + ("; Triton serves CUDA tensors" if info.triton else ""))
    if "ordkernels._cuda" in NOT_LOADED:
        reasons.append(NOT_LOADED["ordkernels._cuda"])
    if not torch.cuda.is_available():
        reasons.append("no CUDA device")
    return reasons


def interpreting() -> bool:
    """Triton reads this when a kernel is decorated, so it has to be set before the first import."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refuse(info: OpInfo, reasons: Any) -> RuntimeError:
    return RuntimeError(f"{info.name} cannot run on the backend {_forced!r}: {'; '.join(reasons)}")


def check_device(info: OpInfo, tensor: Any) -> None:
    """Is the tensor where the forced backend works? `tensor` is a torch tensor; "reference" takes any."""
    device = tensor.device.type
    wanted = "cpu" if _forced == "cpu" or (_forced == "triton" and interpreting()) else "cuda"
    if device != wanted:
        raise refuse(info, [f"expected tensors on {wanted}, got {device}"])


def host_choice(info: OpInfo) -> str:
    """ "cpu" or "reference" for a data-side function."""
    if info.blocked:
        raise refuse(info, info.blocked)
    return _forced or ("cpu" if info.native and host_module() else "reference")


@cache
def host_module() -> ModuleType | None:
    try:
        return importlib.import_module("ordkernels._host")
    except ImportError:
        return None


@cache
def host_reason() -> str:
    """Why `_host` is not there."""
    try:
        from ._build_info import NOT_BUILT  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        NOT_BUILT = {}
    try:
        importlib.import_module("ordkernels._host")
    except ImportError as e:
        return NOT_BUILT.get("ordkernels._host", str(e))
    return ""
