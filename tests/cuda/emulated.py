"""What the tests of CUDA C++ kernels share. They run in the emulator (ORDKERNELS_CUDA_EMULATE=1) or on a GPU."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import ordkernels
from ordkernels.testing.compare import same_bits

EMULATED = os.environ.get("ORDKERNELS_CUDA_EMULATE") == "1"
DEVICE = "cpu" if EMULATED else "cuda"
ORDERS = (0, 1, 2)  # of threads and blocks


def marks(op: str) -> list[pytest.MarkDecorator]:
    """For `pytestmark`."""
    reasons = "; ".join(ordkernels.available_backends(op)["cuda"])
    return [pytest.mark.cuda, pytest.mark.skipif(bool(reasons), reason=reasons or "-")]


def to_device(args: Sequence[Any]) -> list[Any]:
    return [a.to(DEVICE) if isinstance(a, Tensor) else a for a in args]


def on_cuda(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """f of the arguments on the CUDA C++ backend; tensors come back on the CPU."""
    with ordkernels.use_backend("cuda"):
        out = f(*to_device(args), **{k: to_device([a])[0] for k, a in kwargs.items()})
    return out.cpu() if isinstance(out, Tensor) else tuple(t.cpu() for t in out)


def kernel(name: str, *args: Any) -> Any:
    """`ordkernels_cuda::<name>` itself, of CPU tensors."""
    out = getattr(torch.ops.ordkernels_cuda, name)(*to_device(args))
    return out.cpu() if isinstance(out, Tensor) else tuple(t.cpu() for t in out)


def assert_same_bits_in_every_order(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, orders: int = 4) -> None:
    found = []
    for seed in range(orders):
        monkeypatch.setenv("ORDKERNELS_EMULATE_SEED", str(seed))
        out = run()
        found.append([out] if isinstance(out, Tensor) else list(out))
    assert all(same_bits(found[0], other) for other in found[1:])
