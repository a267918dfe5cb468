"""Every function of `_host` from several Python threads at once, each with threads of its own: run under ThreadSanitizer.

The results are those of one thread, bit for bit. Needs no torch, whose threads are not instrumented.
"""

import sys
import threading
from typing import Any

import numpy as np
from host_calls import host_calls

from ordkernels import _backend

CALLERS, THREADS = 3, 4
SIZES = (50, 3_000, 40_000)


class Recorder:
    """`_host`, noting which of its functions are called."""

    def __init__(self, module: Any) -> None:
        self.module, self.called = module, set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.module, name)

    def missed(self) -> set[str]:
        return {name for name in vars(self.module) if not name.startswith("_")} - self.called


def parts(x: Any) -> list[bytes]:
    """Every bit of a result."""
    if isinstance(x, list | tuple):
        return [part for item in x for part in parts(item)]
    if isinstance(x, dict):
        return [part for name in sorted(x) for part in parts(x[name])]
    return [x.encode() if isinstance(x, str) else np.asarray(x).tobytes()]


def check(n: int, seed: int, dtype: Any) -> list[str]:
    """The names of the calls whose results depend on threads."""
    calls = list(host_calls(n, seed, dtype))
    expected = [parts(call(1)) for _, call in calls]
    wrong: list[str] = []

    def run(first: int) -> None:  # the callers begin at different places, so that different kernels run side by side
        for i in (*range(first, len(calls)), *range(first)):
            name, call = calls[i]
            if parts(call(THREADS)) != expected[i]:
                wrong.append(f"{name}, {n} rows")

    callers = [threading.Thread(target=run, args=(len(calls) * i // CALLERS,)) for i in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return wrong


def main() -> int:
    module = _backend.host_module()
    if module is None:
        print(f"_host is not there: {_backend.host_reason()}")
        return 1
    recorder = Recorder(module)
    _backend.host_module = lambda: recorder  # type: ignore[assignment]
    wrong = [name for n in SIZES for dtype in (np.float64, np.float32) for name in check(n, n, dtype)]
    for name in sorted(set(wrong)):
        print(f"another result with threads: {name}")
    if recorder.missed():
        print(f"not called: {', '.join(sorted(recorder.missed()))}")
    return int(bool(wrong or recorder.missed()))


if __name__ == "__main__":
    sys.exit(main())
