"""A fake GPU for dry runs: device "cuda" is the CPU, and events, streams and graphs do what these programs ask of them.

So every line of a run on a GPU can be tried where there is none; its times mean nothing. ORDKERNELS_FAKE_GPU=1, as bench/gpu.sh sets it.
"""

import time
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, Self

import torch
from torch.overrides import TorchFunctionMode


class _OnTheCpu(TorchFunctionMode):
    """Wherever a function is given the device "cuda"."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: _cpu(value) for name, value in (kwargs or {}).items()}
        return function(*map(_cpu, args), **kwargs)


def _cpu(value: Any) -> Any:
    return "cpu" if isinstance(value, str) and value == "cuda" else value


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "_Event") -> float:
        return max(end.at - self.at, 1e-7) * 1e3


class _Graph:
    def replay(self) -> None:
        pass


class _Generator(torch.Generator):
    def __new__(cls, device: str = "cpu") -> Self:
        return super().__new__(cls, _cpu(device))  # type: ignore[call-arg]


def install() -> Literal["tiny"]:
    """From here on; what size of cases a dry run takes."""
    import cases

    from ordkernels.testing import timing

    cases.COMPILER = "eager"  # traces, and does not compile
    timing.FLUSH_BYTES = 1 << 12
    timing.gemm_rate = partial(timing.gemm_rate, n=16)
    copy_bandwidth = timing.copy_bandwidth
    timing.copy_bandwidth = lambda total_bytes, *args, **options: copy_bandwidth(min(total_bytes, 1 << 12), *args, **options)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "CUDAGraph": _Graph,
        "Event": _Event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "get_device_capability": lambda: (0, 0),
        "get_device_name": lambda: "a fake GPU",
        "get_device_properties": lambda index: SimpleNamespace(L2_cache_size=1 << 10),
        "graph": lambda graph: nullcontext(),
        "max_memory_allocated": lambda: 2,
        "memory_allocated": lambda: 1,
        "reset_peak_memory_stats": lambda: None,
        "stream": lambda chosen: nullcontext(),
        "synchronize": lambda: None,
    }
    for name, fake in fakes.items():
        setattr(torch.cuda, name, fake)
    torch.Generator = _Generator  # type: ignore[assignment,misc]
    _OnTheCpu().__enter__()
    return "tiny"
