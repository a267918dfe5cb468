"""Call Triton launchers for a GPU that need not be present: kernels are compiled with the specialisation of a real call, none runs.

Tensors lie on the CPU, and what comes out is uninitialised. Not under ``TRITON_INTERPRET=1``: there a kernel is plain Python.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

__all__ = ["fake_gpu"]


class _Driver:
    """What Triton asks of a GPU's driver. Its device is numbered by the target, so that kernels of two targets are told apart."""

    def __init__(self, target: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", target, 32)
        self.launched: list[Any] = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 227 << 10},
            load_binary=lambda name, binary, shared, device: (1, 1, 0, 0, 1024),  # module, function, registers, spills, threads
        )

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """In the place of Triton's launcher of a compiled kernel, which outlives this driver."""
        from triton.runtime import driver

        found: list[Any] = []

        def launch(*args: Any) -> None:
            if not found:
                kernels, *_ = source.fn.device_caches[self.get_current_device()]
                found.extend(kernel for kernel in kernels.values() if kernel.src is source)
            driver.active.launched.append(found[0])

        return launch


@contextmanager
def fake_gpu(target: int = 90) -> Iterator[list[Any]]:
    """Inside, launchers compile for this compute capability; gives the list of Triton's compiled kernels, in the order of launches."""
    from triton.runtime import driver

    fake, before = _Driver(target), driver._active
    driver.set_active(fake)  # type: ignore[arg-type]
    try:
        yield fake.launched
    finally:
        driver._active = before
