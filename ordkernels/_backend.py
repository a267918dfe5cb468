"""Which backends can run an op, why the others cannot, and the context that forces one.

No torch at import: the data-side functions (quantiles, vocabulary, scores) work without it.
"""

import importlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

__all__ = ["available_backends", "use_backend"]

BACKENDS = ("reference", "cpu", "triton", "cuda")
ISAS = ("base", "avx2", "avx512")  # of the compiled parts, csrc/common/isa.h


def _warn_of_unknown_isa() -> None:
    isa = os.environ.get("ORDKERNELS_ISA", "")
    if isa and isa.lower() not in ISAS:
        warnings.warn(f"ORDKERNELS_ISA: expected {', '.join(ISAS[:-1])} or {ISAS[-1]}, got {isa!r}: ignored", stacklevel=2)


_warn_of_unknown_isa()

# Functions of the compiled `_host` and their numbers of arguments, as they are called here.
HOST_FUNCTIONS = {
    "coverage": 4,
    "errors": 4,
    "histogram_counts": 5,
    "histogram_jsd": 5,
    "history_quantiles": 6,
    "joint_counts": 6,
    "leave_one_out_quantiles": 4,
    "moments": 3,
    "segment_quantiles": 4,
    "srcc": 3,
    "to_units": 4,
    "vocabulary_encode": 5,
    "vocabulary_fit": 6,
    "vocabulary_usage": 4,
    "xauc_counts": 5,
    "xauc_groups": 5,
}


@dataclass
class OpInfo:
    """What exists for one op."""

    name: str
    host: bool = False  # NumPy in and out, `_host`; else a torch op
    native: bool = True  # for a host op: `_host` has it; else only the reference serves it
    on_device: str = ""  # for a host op: what serves tensors on a GPU, if they are not copied to the CPU
    triton: str | None = None  # module below ordkernels._triton
    cuda: bool = False  # CUDA C++ kernels, by a module below ordkernels._cuda
    alias_of: str | None = None  # the dispatcher op that serves it, when the names differ
    # Why it cannot run on each backend that some thread has forced: looked up, not computed, so that torch.compile can trace a call.
    block_reasons: dict[str, tuple[str, ...]] = field(default_factory=dict)


OPS: dict[str, OpInfo] = {}


def register(info: OpInfo) -> OpInfo:
    OPS[info.name] = info
    for context in OPEN_CONTEXTS:
        info.block_reasons[context.backend] = tuple(unavailable_reasons(info, context.backend))
    return info


def register_host(*names: str, native: bool = True, on_device: str = "") -> None:
    """Register data-side functions: NumPy in and out, compiled in `_host` (unless `native=False`), defined in `reference`."""
    for name in names:
        register(OpInfo(name, host=True, native=native, on_device=on_device))


def compiled_host(name: str) -> ModuleType | None:
    """`_host` if it is to run the data-side function `name`; None: its reference. Raises where a forced backend cannot run it."""
    info = OPS[name]
    forced = check_forced(info)
    return host_module() if forced == "cpu" or (forced is None and info.native) else None


class _Context:
    """One entered `use_backend`."""

    __slots__ = ("backend",)

    def __init__(self, backend: str) -> None:
        self.backend = backend


class _ThreadState:
    """One thread's open contexts, and the backend of the innermost one."""

    __slots__ = ("backend", "contexts")

    def __init__(self) -> None:
        self.backend: str | None = None
        self.contexts: list[_Context] = []

    def open(self, context: _Context) -> None:
        self.contexts.append(context)
        self.backend = context.backend
        OPEN_CONTEXTS.append(context)

    def close(self, context: _Context) -> None:
        if context in self.contexts:  # else `_force(None)` has closed it
            self.contexts.remove(context)
            OPEN_CONTEXTS.remove(context)
            self.backend = self.contexts[-1].backend if self.contexts else None


# Of all threads. While it is empty no backend is forced anywhere: all that a call has to check. A list, because its append
# and remove are atomic. What a thread has forced is in `_THREAD.state`: a plain threading.local, which torch.compile can guard on
# (not a subclass of it, and not a ContextVar).
OPEN_CONTEXTS: list[_Context] = []
_THREAD = threading.local()


def forced_backend() -> str | None:
    """The backend that this thread has forced, if any."""
    state = getattr(_THREAD, "state", None)
    return None if state is None else state.backend


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside on one backend, ``"reference" | "cpu" | "triton" | "cuda"``, or raise with the reasons why it cannot.

    It holds for the calling thread alone; of nested contexts the innermost counts. The choice is made when an op is called and kept
    for its backward pass, whatever thread that runs in. ``"reference"`` is plain torch, differentiable any number of times; ``"cuda"``
    means CUDA C++ alone; ``"triton"`` on CPU tensors needs ``TRITON_INTERPRET=1``, ``"cuda"`` on them a build for tests
    (csrc/cuda/README.md). A forced backend never falls back silently.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import torch, ordkernels
        >>> with ordkernels.use_backend("reference"):
        ...     z, _ = ordkernels.ops.planar_flow(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3))
        >>> z.shape
        torch.Size([1, 2])
    """
    state, context = _enter(name)
    try:
        yield
    finally:
        state.close(context)


def _enter(name: str) -> tuple[_ThreadState, _Context]:
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(f"name: expected one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    for info in OPS.values():
        info.block_reasons[name] = tuple(unavailable_reasons(info, name))
    state = getattr(_THREAD, "state", None)
    if state is None:
        state = _THREAD.state = _ThreadState()
    context = _Context(name)
    state.open(context)
    return state, context


def _force(name: str | None) -> None:
    """Force a backend for this thread until further notice; None: close all of this thread's contexts. For tests and debuggers."""
    if name is not None:
        _enter(name)
        return
    state: _ThreadState | None = getattr(_THREAD, "state", None)
    if state is not None:
        for context in list(state.contexts):
            state.close(context)


def __getattr__(name: str) -> Any:
    if name == "_forced":
        return forced_backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_forced(info: OpInfo) -> str | None:
    """The backend that this thread has forced, if any. Raises where it cannot run this op."""
    forced = forced_backend()
    if forced is not None and info.block_reasons[forced]:
        raise backend_error(info, forced, info.block_reasons[forced])
    return forced


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
    if not isinstance(op, str) or op not in OPS:
        raise ValueError(f"op: expected one of {', '.join(sorted(OPS))}, got {op!r}")
    return {name: unavailable_reasons(OPS[op], name) for name in BACKENDS}


def load_all() -> None:
    """Import every module that registers an op; without torch only the data side."""
    for module in ("quantiles", "scores", "vocabulary", *(("ops", "rng") if importlib.util.find_spec("torch") else ())):
        importlib.import_module(f"ordkernels.{module}")


def unavailable_reasons(info: OpInfo, backend: str) -> list[str]:
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
    return {"cpu": _cpu_reasons, "triton": _triton_reasons, "cuda": _cuda_reasons}[backend](info)


def _cpu_reasons(info: OpInfo) -> list[str]:
    from ._library import NOT_LOADED, has_kernel

    if "ordkernels._C" in NOT_LOADED:
        return [NOT_LOADED["ordkernels._C"]]
    return [] if has_kernel(info.alias_of or info.name, "CPU") else [f"{info.name} has no native CPU kernel"]


def _triton_reasons(info: OpInfo) -> list[str]:
    import torch

    reasons = []
    if not has_triton_module(info.triton):
        reasons.append(f"{info.name} has no Triton kernel yet; its reference serves CUDA tensors")
    if not has_triton():
        reasons.append("triton is not installed")
    if not interpreting() and not torch.cuda.is_available():
        reasons.append("no CUDA device (on a CPU: Triton's interpreter, TRITON_INTERPRET=1 before the first import)")
    return reasons


@cache
def has_triton_module(name: str | None) -> bool:
    return name is not None and importlib.util.find_spec(f"ordkernels._triton.{name}") is not None


@cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _cuda_reasons(info: OpInfo) -> list[str]:
    import torch

    from ._library import EMULATED, NOT_LOADED

    reasons = []
    if not info.cuda:
        reasons.append(f"{info.name} has no CUDA C++ kernel" + ("; Triton serves CUDA tensors" if info.triton else ""))
    if "ordkernels._cuda" in NOT_LOADED:
        reasons.append(NOT_LOADED["ordkernels._cuda"])
    if not EMULATED and not torch.cuda.is_available():
        reasons.append("no CUDA device")
    return reasons


def interpreting() -> bool:
    """Triton reads this when a kernel is decorated, so it has to be set before the first import."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def backend_error(info: OpInfo, backend: str, reasons: Any) -> RuntimeError:
    return RuntimeError(f"{info.name} cannot run on the backend {backend!r}: {'; '.join(reasons)}")


def emulating() -> bool:
    """Do CUDA C++ kernels run on the CPU, for tests?"""
    from ._library import EMULATED

    return EMULATED


def check_device(info: OpInfo, backend: str, tensor: Any) -> None:
    """Is the tensor where the forced backend works? "reference" takes any."""
    device = tensor.device.type
    on_cpu = backend == "cpu" or (backend == "triton" and interpreting()) or (backend == "cuda" and emulating())
    expected = "cpu" if on_cpu else "cuda"
    if device != expected:
        raise backend_error(info, backend, [f"expected tensors on {expected}, got {device}"])


@cache
def host_module() -> ModuleType | None:
    if not (reason := host_reason()):
        return importlib.import_module("ordkernels._host")
    warnings.warn(f"ordkernels' data side runs on its NumPy reference, without the compiled _host: {reason}", stacklevel=3)
    return None


@cache
def host_reason() -> str:
    """Why `_host` is not there, or does not serve."""
    try:
        from ._build_info import NOT_BUILT  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        NOT_BUILT = {}
    try:
        host = importlib.import_module("ordkernels._host")
    except ImportError as e:
        return NOT_BUILT.get("ordkernels._host", str(e))
    for name, arguments in HOST_FUNCTIONS.items():
        found = getattr(getattr(host, name, None), "__doc__", None)
        if found != f"{arguments:02}":
            got = f"{int(found)} arguments" if found and found.isdecimal() else "none"
            return stale("_host", host, f"It differs in a function: expected {name} with {arguments} arguments, got {got}")
    return ""


def stale(part: str, module: Any, difference: str) -> str:
    """What is wrong with a compiled part of other sources, and how to mend it."""
    library = getattr(module, "__file__", None) or "a library that was loaded before ordkernels"
    return (
        f"ordkernels.{part} ({library}) was built from another version of ordkernels; rebuild it: in the checkout, `make setup` or "
        f"`pip install --force-reinstall --no-deps .` (with -e if it is installed so). {difference}"
    )
