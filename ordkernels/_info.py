"""What `python -m ordkernels info` says: the machine, the versions, and which backend serves which op."""

import importlib.metadata
import importlib.util
import os
import platform
import textwrap
from pathlib import Path
from typing import Any

__all__ = ["collect", "cpu_name", "isa_in_use", "isas_possible", "text", "versions"]

_PACKAGES = ("ordkernels", "torch", "triton", "numpy")
_ISA_FLAGS = {  # as csrc/common/isa.h asks for them
    "avx2": ("avx2", "fma", "bmi2"),
    "avx512": ("avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512cd"),
}


def collect() -> dict[str, Any]:
    from . import _backend

    _backend.load_all()
    ops = {}
    for name in sorted(_backend.OPS):
        against = {backend: _backend.reasons_against(_backend.OPS[name], backend) for backend in _backend.BACKENDS}
        ops[name] = {"serves": _serving(against), "not": {backend: why for backend, why in against.items() if why}}
    return {
        "versions": versions(),
        "cpu": {
            "name": cpu_name(),
            "isa": isa_in_use(),
            "isa_possible": isas_possible(),
            "ORDKERNELS_ISA": os.environ.get("ORDKERNELS_ISA"),
        },
        "threads": _threads(),
        "gpu": _gpu(),
        "parts": _parts(),
        "ops": ops,
    }


def _serving(against: dict[str, list[str]]) -> dict[str, str]:
    """Device -> the backend that a call takes when none is forced."""
    import_torch = importlib.util.find_spec("torch") is not None
    on = {"cpu": "reference" if against["cpu"] else "cpu"}
    if import_torch:
        import torch

        if torch.cuda.is_available():
            on["cuda"] = next((name for name in ("cuda", "triton") if not against[name]), "reference")
    return on


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if found["ordkernels"] == "not installed":  # run from a checkout
        from . import __version__

        found["ordkernels"] = f"{__version__} (from {Path(__file__).parent})"
    return found


def cpu_name() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def isas_possible() -> list[str]:
    flags: set[str] = set()
    for line in _cpuinfo():
        if line.startswith("flags"):
            flags = set(line.split(":", 1)[1].split())
            break
    return ["base", *(name for name, need in _ISA_FLAGS.items() if flags.issuperset(need))]


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def isa_in_use() -> str | None:
    """The instruction set of the torch ops' CPU kernels; None if they are not there."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    from ._library import NOT_LOADED

    return None if "ordkernels._C" in NOT_LOADED else torch.ops.ordkernels.isa()


def _threads() -> dict[str, Any]:
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    if importlib.util.find_spec("torch"):
        import torch

        found["torch"] = torch.get_num_threads()
    found["ORDKERNELS_NUM_THREADS"] = os.environ.get("ORDKERNELS_NUM_THREADS")
    return found


def _gpu() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"found": False, "why": "torch is not installed"}
    import torch

    if torch.version.cuda is None:
        return {"found": False, "why": "this torch has no CUDA"}
    if not torch.cuda.is_available():
        return {"found": False, "why": f"torch was built for CUDA {torch.version.cuda} and finds no device"}
    p = torch.cuda.get_device_properties(0)
    return {
        "found": True,
        "name": p.name,
        "capability": f"{p.major}.{p.minor}",
        "memory_GiB": round(p.total_memory / 2**30, 1),
        "multiprocessors": p.multi_processor_count,
        "cuda": torch.version.cuda,
        "count": torch.cuda.device_count(),
    }


def _parts() -> dict[str, str]:
    """Compiled part -> "loaded", or why not."""
    from ._backend import host_module, host_reason

    parts = {"_host (data side)": "loaded" if host_module() else host_reason()}
    if importlib.util.find_spec("torch"):
        from ._library import NOT_LOADED

        parts["_C (CPU)"] = NOT_LOADED.get("ordkernels._C", "loaded")
        parts["_cuda (CUDA C++)"] = NOT_LOADED.get("ordkernels._cuda", "loaded")
    return parts


def text(found: dict[str, Any]) -> str:
    cpu, threads, gpu = found["cpu"], found["threads"], found["gpu"]
    lines = ["Versions"]
    lines += [f"  {name:<12}{version}" for name, version in found["versions"].items()]
    lines += ["", "Machine"]
    lines.append(f"  CPU         {cpu['name']}")
    lowered = f", ORDKERNELS_ISA={cpu['ORDKERNELS_ISA']}" if cpu["ORDKERNELS_ISA"] else ""
    lines.append(f"  ISA         {cpu['isa'] or 'none (no native kernels)'} in use; possible: {', '.join(cpu['isa_possible'])}{lowered}")
    host_threads = threads["ORDKERNELS_NUM_THREADS"] or threads["cores"]
    lines.append(f"  threads     torch {threads.get('torch', '-')}, data side {host_threads}, cores {threads['cores']}")
    if gpu["found"]:
        sm = gpu["capability"].replace(".", "")
        lines.append(f"  GPU         {gpu['name']} (sm_{sm}, {gpu['memory_GiB']} GiB, CUDA {gpu['cuda']}) x {gpu['count']}")
    else:
        lines.append(f"  GPU         none: {gpu['why']}")
    lines += ["", "Compiled parts"]
    lines += [f"  {name:<18}{state}" for name, state in found["parts"].items()]
    lines += ["", "Ops: the backend that serves a call, and why not the others"]
    for name, op in found["ops"].items():
        serves = ", ".join(f"{backend}" if device == "cpu" else f"{backend} on CUDA tensors" for device, backend in op["serves"].items())
        lines.append(f"  {name:<26}{serves}")
        for backend, why in op["not"].items():
            lines += textwrap.wrap(f"not {backend}: {'; '.join(why)}", 116, initial_indent=" " * 6, subsequent_indent=" " * 10)
    return "\n".join(lines)
