"""Timing: candidates run in turns in one process, medians; with warm caches and memory, or cold ones on purpose; measured limits of
the machine.

On a CPU, absolute times drift with the machine's load while ratios of interleaved medians hardly do. On a GPU, what is timed is
device time with a cold L2: events around a CUDA graph's replay, after a kernel that overwrites the cache.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Timing",
    "cold",
    "copy_bandwidth",
    "gemm_rate",
    "graphed",
    "interleaved",
    "interleaved_cuda",
    "keep_memory_warm",
    "launch_overhead",
    "peak_extra_memory",
]

Run = Callable[[], Any]

FLUSH_BYTES = 1 << 28  # overwritten between timed calls on a GPU, or four times its L2


@dataclass
class Timing:
    """Seconds per call: the median of n samples, and the range that holds the middle half of them."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, samples: list[float]) -> "Timing":
        s = sorted(samples)
        return cls(statistics.median(s), s[len(s) // 4], s[(3 * len(s)) // 4], len(s))


# ---------------------------------------------------------------------------------------------------------- CPU


def interleaved(
    runs: Mapping[str, Run],
    *,
    seconds: float = 2.0,
    rounds: tuple[int, int] = (3, 60),
    warm: int = 2,
    sample: float = 1e-3,
    warm_below: float = 0.05,
) -> dict[str, Timing]:
    """Median times of candidates run round robin, at least rounds[0] and at most rounds[1] times, until `seconds` are over.

    Before its samples each candidate runs untimed for the length of one: the candidate before it left the caches full of its own
    data, and what is measured is a call that a program makes again and again. Calls longer than `warm_below` lose too little to that.

    Args:
        runs: name -> call.
        seconds: budget of all candidates together.
        rounds: least and greatest number of rounds.
        warm: calls of each before the first round.
        sample: seconds that a sample lasts at least; shorter calls are repeated within it.
        warm_below: seconds below which a call runs untimed before its samples.
    """
    once = {}
    for name, run in runs.items():
        for _ in range(warm):
            run()
        once[name] = max(_timed(run, 1), 1e-7)
    repeats = {name: max(1, int(sample / t)) for name, t in once.items()}
    share = {name: min(10, max(1, int(max(once.values()) / (8 * t * repeats[name])))) for name, t in once.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    started, done = time.perf_counter(), 0
    while done < rounds[0] or (done < rounds[1] and time.perf_counter() - started < seconds):
        for name, run in runs.items():
            if once[name] <= warm_below:
                _timed(run, repeats[name])
            samples[name] += [_timed(run, repeats[name]) for _ in range(share[name])]
        done += 1
    return {name: Timing.of(s) for name, s in samples.items()}


def _timed(run: Run, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_memory_warm() -> bool:
    """From here on freed memory stays mapped, so that outputs are written to pages touched before. False: this libc cannot."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def _release_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def cold(run: Run, n: int = 5) -> Timing:
    """A call after all free memory was returned to the system: every output page is touched for the first time."""
    samples = []
    for _ in range(n):
        _release_memory()
        samples.append(_timed(run, 1))
    return Timing.of(samples)


def peak_extra_memory(run: Run, device: str = "cpu") -> int | None:
    """Bytes above what was allocated before the call, at its peak, outputs included; None where the system does not report it."""
    run()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _release_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
        before = _resident("VmRSS")
        run()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: no {field}")


# --------------------------------------------------------------------------------------------------------- CUDA


def graphed(run: Run) -> Run:
    """`run` captured once as a CUDA graph; calling the result replays it, without Python or launch gaps."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def interleaved_cuda(
    runs: Mapping[str, Run], *, seconds: float = 1.0, rounds: tuple[int, int] = (10, 100), warm: int = 5
) -> dict[str, Timing]:
    """Device time by events, round robin, the L2 overwritten before every call (which also keeps the GPU behind the host)."""
    import torch

    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    flush = torch.empty(max(4 * l2, FLUSH_BYTES) // 4, dtype=torch.int32, device="cuda")
    for run in runs.values():
        for _ in range(warm):
            run()
    torch.cuda.synchronize()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    started, done = time.perf_counter(), 0
    while done < rounds[0] or (done < rounds[1] and time.perf_counter() - started < seconds):
        events = {}
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.fill_(done)
            start.record()
            run()
            end.record()
            events[name] = (start, end)
        torch.cuda.synchronize()
        for name, (start, end) in events.items():
            samples[name].append(start.elapsed_time(end) * 1e-3)
        done += 1
    return {name: Timing.of(s) for name, s in samples.items()}


def launch_overhead(run: Run, n: int = 200, *, seconds: float = 0.3) -> Timing:
    """Host time of one call from Python, without waiting for the device: the least that any op costs. `n` calls, or five if it is slow."""
    import torch

    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < 5 or (len(samples) < n and time.perf_counter() - started < seconds):
        torch.cuda.synchronize()
        samples.append(_timed(run, 1))
    torch.cuda.synchronize()
    return Timing.of(samples)


# ------------------------------------------------------------------------------------------------------- limits


def copy_bandwidth(total_bytes: int, device: str = "cpu", *, seconds: float = 0.5) -> float:
    """Bytes read plus written per second of a copy that touches `total_bytes` in all: in a cache, if that is where they fit."""
    import torch

    source = torch.rand(max(1024, total_bytes // 8), device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    if device == "cuda":
        return moved / interleaved_cuda({"copy": lambda: target.copy_(source)}, seconds=seconds)["copy"].median
    return moved / interleaved({"copy": lambda: target.copy_(source)}, seconds=seconds, rounds=(5, 2000))["copy"].median


def gemm_rate(device: str = "cpu", *, seconds: float = 0.5, n: int = 0) -> dict[str, float]:
    """FLOP per second of a large matrix product on random data: fp32 (and tf32 off), on a GPU bf16 as well."""
    import torch

    n, rates = n or (8192 if device == "cuda" else 1024), {}
    for dtype in (torch.float32, torch.bfloat16) if device == "cuda" else (torch.float32,):
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        time_of = interleaved_cuda if device == "cuda" else interleaved
        took = time_of({"gemm": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)}, seconds=seconds)["gemm"].median  # type: ignore[misc]
        rates[str(dtype).removeprefix("torch.")] = 2 * n**3 / took
    return rates
