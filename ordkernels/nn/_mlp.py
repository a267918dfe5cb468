"""Networks of one hidden layer through ``ops.mlp`` where a kernel serves it, else by torch's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from .._backend import forced_backend
from .._validation.tensors import autocast_is_active
from ..ops._register import Op
from ..ops.mlp import _OP, mlp

__all__ = ["MLP", "has_hooks", "kernel_serves"]

LEAST_ROWS = 128  # below, packing the weights takes longer than what the kernel saves


class MLP(nn.Sequential):
    """``Linear, SiLU, Dropout, Linear`` (without Dropout where ``dropout`` is None): ``[..., width] -> [..., out]``."""

    def __init__(self, width: int, hidden: int, out: int, dropout: float | None = None) -> None:
        middle = [nn.SiLU()] if dropout is None else [nn.SiLU(), nn.Dropout(dropout)]
        super().__init__(nn.Linear(width, hidden), *middle, nn.Linear(hidden, out))

    def forward(self, x: Tensor) -> Tensor:
        if not self.served(x):
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]
        first, last = self._dense()
        y = mlp(x.reshape(-1, x.shape[-1]), first.weight, first.bias, last.weight, last.bias, dropout=self._share_dropped())
        return y.view(*x.shape[:-1], y.shape[-1])

    def with_shared(self, x: Tensor, shared: Tensor, row: Tensor | None, widths: Sequence[int]) -> Tensor:
        """The same of rows ``x [N, K]`` and ``shared[row]``, ``shared [B, J]``, ``row [N]`` (None: each its own), which is multiplied once
        for all that share it. ``widths``: how many columns of the input are of x, of what is shared, of x, ... in turn. Where ``served``,
        and nobody listens to the calls of the module."""
        first, last = self._dense()
        columns = first.weight.split(list(widths), dim=1)
        own, common = (torch.cat(columns[i::2], dim=1) for i in range(2))
        cond = F.linear(shared, common, first.bias)
        return mlp(x, own, None, last.weight, last.bias, cond=cond, cond_index=row, dropout=self._share_dropped())

    def served(self, x: Tensor) -> bool:
        """Whether a kernel stands for these layers, as they are now."""
        layers = tuple(self._modules.values())
        plain = [type(m) for m in layers[1:-1]] in ([nn.SiLU], [nn.SiLU, nn.Dropout])
        return plain and kernel_serves(x, *layers)

    def _dense(self) -> tuple[Any, Any]:
        first, *_, last = self._modules.values()
        return first, last

    def _share_dropped(self) -> float:
        dropout: Any = [m for m in self._modules.values() if type(m) is nn.Dropout]
        return float(dropout[0].p) if self.training and dropout else 0.0


def kernel_serves(x: Tensor, *layers: nn.Module, op: Op[Tensor] = _OP) -> bool:
    """Whether a kernel of an op, of ``ops.mlp`` if none is given, may stand for these layers.

    Not ``ops.mlp`` for few rows, where torch's layers take less time, unless a backend is forced; not for half types and under
    autocast, whose products torch makes in that type; nor where a layer has been replaced, or has hooks, or weights of a tensor
    subclass (sharded, quantized).
    """
    if op is _OP and not is_compiling() and x.numel() < LEAST_ROWS * x.shape[-1] and forced_backend() is None:
        return False
    serves = x.dtype in (torch.float32, torch.float64) and not autocast_is_active() and op.has_kernel(x)
    return serves and all(map(_is_plain, layers))


def has_hooks(module: nn.Module) -> bool:
    """Whether anyone listens to the calls of a module, which a kernel that stands for it would not make."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _is_plain(layer: Any) -> bool:
    if type(layer) not in (nn.Linear, nn.SiLU, nn.Dropout, nn.LayerNorm):
        return False
    if has_hooks(layer):
        return False
    return all(p is None or type(p) in (Tensor, nn.Parameter) for p in layer._parameters.values())


def copies_of_rows(B: int, copies: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """For B rows of so many copies each, one after the other: which row, and which copy, an entry is; None: as it comes."""
    if copies == 1:
        return None, None
    row, copy = torch.arange(B, device=device)[:, None], torch.arange(copies, device=device)
    return row.expand(B, copies).reshape(-1), copy.expand(B, copies).reshape(-1)
