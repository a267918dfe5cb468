"""An op without gradients that is one whole loop: where it runs, from its definition and its launchers."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import _backend
from .._library import LIB, NAMESPACE, op

Kernel = Callable[..., Any]


def tensor_of(module: torch.nn.Module, name: str) -> Any:
    """A parameter or buffer, ten times as fast as the attribute; that where it is neither, as a parametrization makes it."""
    found: Tensor | None = module._parameters.get(name)
    if found is None:
        found = module._buffers.get(name)
    return getattr(module, name) if found is None else found


def mlp_weights(denoiser: torch.nn.Module) -> tuple[Tensor, ...]:
    """An MLPDenoiser's W_x | W_t, its bias, W_c, W_o and its bias."""
    parts: Any = denoiser._modules
    first, condition, last = parts["input"], parts["condition"], parts["output"]
    return (
        tensor_of(first, "weight"), tensor_of(first, "bias"), tensor_of(condition, "weight"),
        tensor_of(last, "weight"), tensor_of(last, "bias"),
    )  # fmt: skip


class InferenceOp:
    """`name` of the schema. `ordkernels._triton.<name>` holds its launcher of that name, and `unavailable_reasons(*args)`.

    What Triton cannot run is refused with those reasons where Triton was asked for; elsewhere on a GPU `definition` serves it.
    """

    def __init__(self, name: str, *, definition: Kernel, fake: Kernel) -> None:
        self.name, self.definition = name, definition
        self.info = _backend.register(_backend.OpInfo(name, triton=name))
        self.op = op(name)
        LIB.impl(name, definition, "CompositeExplicitAutograd")
        LIB.impl(name, self._on_cuda, "CUDA")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIB)

    def __call__(self, *args: Any) -> Any:
        forced = _backend.check_forced(self.info) if _backend.OPEN_CONTEXTS else None
        if forced is None:
            return self.op(*args)
        if forced == "reference":
            return self.definition(*args)
        _backend.check_device(self.info, forced, args[0])
        if forced != "triton":
            return self.op(*args)
        if reasons := self._triton().unavailable_reasons(*args):
            raise _backend.backend_error(self.info, forced, reasons)
        return getattr(self._triton(), self.name)(*args)

    def _on_cuda(self, *args: Any) -> Any:
        """The CUDA key, where no backend is forced."""
        if self._triton().unavailable_reasons(*args):
            return self.definition(*args)
        return getattr(self._triton(), self.name)(*args)

    def _triton(self) -> ModuleType:
        return importlib.import_module(f"ordkernels._triton.{self.name}")
