"""Launches of Triton kernels. A compiled kernel is found again by what Triton specialises it on, in two thirds of Triton's own time.

Of each argument Triton compiles in: of a tensor its dtype and whether its address is a multiple of 16; of an integer whether it is 1 or
a multiple of 16, and how wide it has to be; constants by value. `specialization` is at least as fine: what Triton would compile apart
has other keys here, for any kernel and whatever it leaves unspecialised (tests/ops/test_launch.py). A key that is new goes through
Triton, and so does everything in a Triton that was not looked at, on other GPUs, and in the interpreter. Not yet run on a GPU.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.runtime import JITFunction, driver

KNOWN = ((3, 6), (3, 7), (3, 8), (3, 9))  # Tritons that specialise as above
MOST = 1024  # compiled kernels that one kernel keeps
_KERNELS: dict[int, "_Kernel"] = {}  # by id: a kernel's own hash takes longer than the rest


class _Kernel:
    """A kernel, what has been compiled of it, and where its constants begin."""

    __slots__ = ("compiled", "constants", "kernel", "names")

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.names = kernel, kernel.arg_names  # kept, so that its id stays its own
        constants = [parameter.is_constexpr for parameter in kernel.params]
        self.constants = len(constants) - sum(constants)
        if any(constants[: self.constants]):
            raise ValueError(f"{kernel.__name__}: expected its constants after all other arguments, got them at {constants}")
        version = tuple(int(number) for number in triton.__version__.split(".")[:2])
        self.compiled: dict[tuple[Any, ...], Any] | None = {} if version in KNOWN else None


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int, num_stages: int | None = None, maxnreg: int | None = None,
    **constants: Any,
) -> None:  # fmt: skip
    """``kernel[grid](*args, **constants)`` on the device of the first argument, a tensor. num_stages, maxnreg: None for Triton's own."""
    if not isinstance(kernel, JITFunction):  # interpreted
        kernel[grid](*args, **constants, num_warps=num_warps)
        return
    known = _KERNELS.get(id(kernel))
    if known is None:
        known = _KERNELS[id(kernel)] = _Kernel(kernel)
    if constants:
        args = (*args, *(constants.pop(name) for name in known.names[len(args) :]))
        if constants:
            raise TypeError(f"{kernel.__name__}: expected constants among its arguments, got {sorted(constants)}")
    device, own = driver.active.get_current_device(), args[0].get_device()
    if own not in (device, -1):  # -1: on the CPU, in tests
        with torch.cuda.device(own):
            launch(kernel, grid, *args, num_warps=num_warps, num_stages=num_stages, maxnreg=maxnreg)
        return
    if known.compiled is not None:
        settings = device, num_warps, num_stages, maxnreg, knobs.runtime.debug, knobs.compilation.instrumentation_mode
        key = (*settings, *args[known.constants :], *specialization(args[: known.constants]))
        found = known.compiled.get(key)
        if found is not None:
            found[(*grid, 1, 1)](*args, stream=driver.active.get_current_stream(device))
            return
    options = {"num_stages": num_stages, "maxnreg": maxnreg}
    compiled = kernel[grid](*args, num_warps=num_warps, **{name: n for name, n in options.items() if n is not None})
    if known.compiled is not None and compiled is not None and compiled.metadata.target.backend == "cuda":
        if len(known.compiled) >= MOST:
            known.compiled.clear()
        known.compiled[key] = compiled


def output_like(t: Tensor) -> Tensor:
    """A contiguous tensor to write to. `new_empty` takes twice as long for a shape, though not for its numbers one by one."""
    return torch.empty_like(t, memory_format=torch.contiguous_format)


def specialization(args: Sequence[Any]) -> list[Any]:
    """What Triton may compile in of arguments that are not constants."""
    key: list[Any] = []
    for a in args:
        kind = a.__class__
        if kind is int:
            if -0x80000000 <= a <= 0x7FFFFFFF:
                key.append(1 if a == 1 else 16 if a % 16 == 0 else 0)
            else:
                key.append(("i64" if a <= 0x7FFFFFFFFFFFFFFF else "u64", a % 16 == 0))
        elif isinstance(a, Tensor):
            key.append(a.dtype)
            key.append(a.data_ptr() % 16 == 0)
        elif kind is float or a is None:
            key.append(kind)
        else:
            key.append((kind, a))
    return key
