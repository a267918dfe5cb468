"""What `python -m ordkernels info` prints: versions, machine, compiled parts, and which backend serves which op."""

import importlib.metadata
import importlib.util
import os
import platform
import textwrap
from pathlib import Path
from typing import Any

__all__ = ["collect", "cpu_name", "isa_in_use", "isas_possible", "table", "text", "versions"]

WIDTH = 100  # columns of what is printed
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
        reasons = _backend.available_backends(name)
        ops[name] = {"serves": _serving(reasons), "not": {backend: why for backend, why in reasons.items() if why}}
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


def _serving(reasons: dict[str, list[str]]) -> dict[str, str]:
    """Device -> the backend that runs a call when none is forced."""
    serving = {"cpu": "reference" if reasons["cpu"] else "cpu"}
    if _has_torch():
        import torch

        if torch.cuda.is_available():
            serving["cuda"] = next((name for name in ("cuda", "triton") if not reasons[name]), "reference")
    return serving


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


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
    """The instruction set that the native CPU ops use; None without them."""
    if not _has_torch():
        return None
    import torch

    from ._library import NOT_LOADED

    return None if "ordkernels._C" in NOT_LOADED else torch.ops.ordkernels.isa()


def _threads() -> dict[str, Any]:
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    if _has_torch():
        import torch

        found["torch"] = torch.get_num_threads()
    found["ORDKERNELS_NUM_THREADS"] = os.environ.get("ORDKERNELS_NUM_THREADS")
    return found


def _gpu() -> dict[str, Any]:
    if not _has_torch():
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
    if _has_torch():
        from ._library import EMULATED, NOT_LOADED

        parts["_C (CPU)"] = NOT_LOADED.get("ordkernels._C", "loaded")
        parts["_cuda_emulated (CUDA C++ on the CPU)" if EMULATED else "_cuda (CUDA C++)"] = NOT_LOADED.get("ordkernels._cuda", "loaded")
    return parts


def table(found: dict[str, Any]) -> str:
    """One screen: versions, machine and parts in a few lines, then ops x backends with a mark; each reason once, below."""
    reasons: dict[str, str] = {}  # reason, without the op's name -> its letter
    rows = [_row(name, op, reasons) for name, op in found["ops"].items()]
    half = (len(rows) + 1) // 2
    head = f"{'':<26}{'ref':<4}{'cpu':<4}{'triton':<7}{'cuda':<5}"
    lines = [*_summary(found), "", f"{head}  {head}".rstrip()]
    lines += [f"{left}  {right}".rstrip() for left, right in zip(rows[:half], [*rows[half:], ""], strict=False)]
    lines += ["", "* serves by default   + available, by use_backend   letters: not available, because"]
    for why, letter in reasons.items():
        lines += textwrap.wrap(f"{letter}  {why}", WIDTH, subsequent_indent=" " * 3)
    return "\n".join(lines)


def _row(name: str, op: dict[str, Any], reasons: dict[str, str]) -> str:
    """An op's name and a mark for each backend; new reasons get the next letter."""
    cells = []
    for backend, width in (("reference", 4), ("cpu", 4), ("triton", 7), ("cuda", 5)):
        why = [reason.removeprefix(f"{name} ") for reason in op["not"].get(backend, [])]
        letters = "".join(sorted(reasons.setdefault(reason, chr(ord("a") + len(reasons))) for reason in why))
        cells.append(f"{letters or ('*' if backend in op['serves'].values() else '+'):<{width}}")
    return f"{name:<26}" + "".join(cells)


def _summary(found: dict[str, Any]) -> list[str]:
    versions = dict(found["versions"])
    own, platform_name = versions.pop("ordkernels"), versions.pop("platform")
    lines = [f"ordkernels {own}", ", ".join(f"{name} {version}" for name, version in versions.items()) + f"; {platform_name}"]
    lines += [
        f"CPU: {found['cpu']['name']}; {_isa_text(found['cpu'])}; {_threads_text(found['threads'])}",
        f"GPU: {_gpu_text(found['gpu'])}",
    ]
    lines += [f"{name}: {state}" for name, state in found["parts"].items() if state != "loaded"]
    loaded = [name for name, state in found["parts"].items() if state == "loaded"]
    lines.append(f"compiled parts loaded: {', '.join(loaded) or 'none'}")
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]


def _isa_text(cpu: dict[str, Any]) -> str:
    lowered = f", ORDKERNELS_ISA={cpu['ORDKERNELS_ISA']}" if cpu["ORDKERNELS_ISA"] else ""
    return f"{cpu['isa'] or 'no native kernels'} in use; possible: {', '.join(cpu['isa_possible'])}{lowered}"


def _threads_text(threads: dict[str, Any]) -> str:
    host = threads["ORDKERNELS_NUM_THREADS"] or threads["cores"]
    return f"threads: torch {threads.get('torch', '-')}, data side {host}; cores: {threads['cores']}"


def _gpu_text(gpu: dict[str, Any]) -> str:
    if not gpu["found"]:
        return f"none: {gpu['why']}"
    sm = gpu["capability"].replace(".", "")
    return f"{gpu['name']} (sm_{sm}, {gpu['memory_GiB']} GiB, CUDA {gpu['cuda']}) x {gpu['count']}"


def text(found: dict[str, Any]) -> str:
    """Every detail: each op with each reason in full."""
    lines = ["Versions", *(f"  {name:<12}{version}" for name, version in found["versions"].items())]
    lines += ["", "Machine", f"  CPU         {found['cpu']['name']}", f"  ISA         {_isa_text(found['cpu'])}"]
    lines += [f"  {_threads_text(found['threads'])}", f"  GPU         {_gpu_text(found['gpu'])}", "", "Compiled parts"]
    lines += [f"  {name:<18}{state}" for name, state in found["parts"].items()]
    lines += ["", "Ops: the backend that serves a call, and why not the others"]
    for name, op in found["ops"].items():
        serves = ", ".join(backend if device == "cpu" else f"{backend} on CUDA tensors" for device, backend in op["serves"].items())
        lines.append(f"  {name:<26}{serves}")
        for backend, why in op["not"].items():
            lines += textwrap.wrap(f"not {backend}: {'; '.join(why)}", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 10)
    return "\n".join(lines)
