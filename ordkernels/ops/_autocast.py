"""Kernels and references under torch's autocast."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._validation.tensors import autocast_is_active


def without_autocast(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, which picks the dtypes that it computes in: autocast would round the matrix products in it to 16 bits."""

    def call(*args: Any) -> Any:
        if not autocast_is_active():
            return run(*args)
        with torch.autocast(_first_tensor(args).device.type, enabled=False):
            return run(*args)

    return call


def _first_tensor(args: Sequence[Any]) -> Tensor:
    flat = (t for a in args for t in (a if isinstance(a, list | tuple) else (a,)))
    return next(t for t in flat if isinstance(t, Tensor))
