"""Every op and data-side function with less and less memory: a MemoryError or RuntimeError, or the right result; and right again after.

For a process of its own: `out_of_memory.py ops|data`, which prints a line for each function before it is called, and how it ended.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host_calls import host_calls
from op_calls import op_calls, step

from ordkernels import ops

ROWS = {"ops": 6001, "data": 100_001}
THREADS = 3
# Bytes above what the process has. Not fewer: torch itself reads a null pointer where it has none for the text of its own error.
MARGINS = (2**18, 2**20, 2**22)
WIDE = 2**18  # elements of a row, for which some kernels take memory inside parallel_for


def torch_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    torch.set_num_threads(THREADS)
    for dtype in (torch.float32, torch.bfloat16):
        for call, few in zip(op_calls(ROWS["ops"], 1, dtype), op_calls(600, 1, dtype), strict=True):
            few()  # starts the threads: where that fails, libgomp ends the process
            step(few)
            yield f"{call.name}, {dtype}", call
            yield f"{call.name}, {dtype}, backward", lambda call=call: step(call)
    x, y = torch.randn(THREADS, WIDE), torch.randn(THREADS)
    half, widths, table = x.bfloat16(), torch.rand(WIDE), torch.randn(WIDE, 1)
    quantiles = x.sort().values
    yield "crps, wide", lambda: [ops.crps(x, y)]
    yield "wasserstein_quantile_loss, wide", lambda: [ops.wasserstein_quantile_loss(x, quantiles, quantiles, lam=0.5)]
    yield "nested_min, wide", lambda: [*ops.nested_min(half, widths.bfloat16())]
    yield "embedding_mixup, wide", lambda: [ops.embedding_mixup(x, table, window=9)]


def data_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    for (name, call), (_, few) in zip(host_calls(ROWS["data"], 1), host_calls(50, 1), strict=True):
        few(THREADS)
        yield name, lambda call=call: call(THREADS)


@contextmanager
def address_space(margin: int) -> Iterator[None]:
    """At most `margin` bytes more than the process has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (size + margin, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def hoard() -> list[Any]:
    """All memory that malloc keeps free, in pieces of 4 KiB and more."""
    held: list[Any] = []
    with address_space(0):
        for size in (2**24, 2**20, 2**16, 2**12):
            with suppress(MemoryError):
                while True:
                    held.append(np.empty(size, np.uint8))
    return held


def limited(call: Callable[[], Any], margin: int) -> Any:
    """The result, or the error's class."""
    with address_space(margin):
        try:
            return call()
        except (MemoryError, RuntimeError) as error:
            return type(error)


def numbers(result: Any) -> Any:
    """A copy that can be compared."""
    if isinstance(result, list | tuple):
        return [numbers(x) for x in result]
    if isinstance(result, torch.Tensor):
        return result.detach().double().numpy().copy()
    return result.copy() if isinstance(result, np.ndarray) else result


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.array_equal(a, b, equal_nan=True)) if isinstance(a, np.ndarray) else repr(a) == repr(b)


def main() -> None:
    for name, call in torch_calls() if sys.argv[1] == "ops" else data_calls():
        print(name, end=": ", flush=True)
        held = hoard()
        found = [limited(call, margin) for margin in MARGINS]
        del held
        errors = [x for x in found if isinstance(x, type)]
        expected = numbers(call())
        right = all(same(numbers(x), expected) for x in found if not isinstance(x, type))
        print(f"{len(errors)} errors, {'right' if right else 'WRONG'}", flush=True)


if __name__ == "__main__":
    main()
