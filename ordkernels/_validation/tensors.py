"""Checks of tensors."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as functorch_is_active

from .arrays import as_tensor
from .numbers import number

autocast_is_active = torch._C._is_any_autocast_enabled
dispatch_modes = torch._C._len_torch_dispatch_stack  # how many are active
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def floating(name: str, t: Any) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(t).__name__}")
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {t.dtype}")
    if t.layout is not torch.strided or t.is_nested:  # its dtype is none of quantized tensors
        raise _not_dense(name, t)


def dense(name: str, t: Tensor) -> None:
    if t.layout is not torch.strided or t.is_nested or t.is_quantized:
        raise _not_dense(name, t)


def _not_dense(name: str, t: Tensor) -> TypeError:
    got = "a nested one" if t.is_nested else "a quantized one" if t.is_quantized else t.layout
    return TypeError(f"{name}: expected a dense tensor, got {got}")


def with_values(name: str, t: Tensor) -> None:
    """Dense, and on a device that has values: they will be read."""
    dense(name, t)
    if t.device.type == "meta":
        raise TypeError(f"{name}: expected a tensor with values, got a tensor on meta")


def same(name: str, t: Any, other_name: str, other: Tensor) -> None:
    """A floating tensor of the other's dtype and device."""
    floating(name, t)
    if t.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {t.dtype}")
    same_device(name, t, other_name, other)


def promoted(*tensors: Any) -> list[Any]:
    """Tensors of several floating dtypes as torch's own ops take them under autocast: all in the widest. Anything else stays.

    Called where `autocast_is_active`, before the checks."""
    dtypes = {t.dtype for t in tensors if isinstance(t, Tensor) and t.dtype in FLOATS and torch.is_autocast_enabled(t.device.type)}
    if len(dtypes) < 2:
        return list(tensors)
    widest = reduce(torch.promote_types, dtypes)
    return [t.to(widest) if isinstance(t, Tensor) and t.dtype in FLOATS else t for t in tensors]


def cast_like(weight: Tensor, *tensors: Any) -> list[Any]:
    """Under autocast, floating tensors in the dtype of a network's weight, as its layers would cast them. Anything else stays."""
    if not torch.is_autocast_enabled(weight.device.type):
        return list(tensors)
    return [t.to(weight.dtype) if isinstance(t, Tensor) and t.dtype in FLOATS else t for t in tensors]


def same_device(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    if t.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}, got {t.device}")


def boolean(name: str, t: Any) -> None:
    if not isinstance(t, Tensor) or t.dtype != torch.bool:
        raise TypeError(f"{name}: expected a bool tensor, got {getattr(t, 'dtype', type(t).__name__)}")
    dense(name, t)


def dims(name: str, t: Tensor, allowed: Sequence[int], form: str) -> None:
    if t.dim() not in allowed:
        raise ValueError(f"{name}: expected {form}, got {t.dim()} dimensions, shape {list(t.shape)}")


def shape(name: str, t: Tensor, expected: Sequence[int], form: str) -> None:
    if t.shape != tuple(expected):
        raise ValueError(f"{name}: expected {form} = {list(expected)}, got {list(t.shape)}")


def can_read_values(t: Tensor) -> bool:
    """On a CPU in eager mode. Elsewhere reading would wait for the device, break the graph, or be traced into it."""
    return (
        t.device.type == "cpu"
        and type(t) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not functorch_is_active()
        and not dispatch_modes()
    )


def at_least_zero(name: str, t: Tensor) -> None:
    if not can_read_values(t):
        return
    if t.dim() == 1 and t.shape[0] <= 16:  # a few are fastest as a list
        for x in t.tolist():
            if x < 0:
                raise ValueError(f"{name}: expected 0 or more, got {x}")
    elif t.numel():
        least = (t.detach() if t.requires_grad else t).amin().item()  # the fastest reduction
        least = least if least == least else extremes(t)[0]
        if least < 0:
            raise ValueError(f"{name}: expected 0 or more, got {least}")


def extremes(t: Tensor) -> tuple[float, float]:
    """The least and the largest number of a tensor that is not empty; a NaN hides no other number. NaN twice where all are."""
    t = t.detach() if t.requires_grad else t
    low, high = torch.aminmax(t)
    least = low.item()
    if least == least:
        return least, high.item()
    numbers = t[t == t]
    return extremes(numbers) if numbers.numel() else (least, least)


def integers(name: str, x: Any, device: Any = None) -> Tensor:
    """A tensor, array or sequence of integers of any type as an int64 tensor, on the device if one is given."""
    if isinstance(x, Tensor):
        dense(name, x)
    if type(x) is Tensor and x.dtype == torch.int64 and device is None:
        return x
    if isinstance(x, int | float | str | bytes | np.generic) or x is None:
        raise TypeError(f"{name}: expected a tensor, array or sequence of integers, got {type(x).__name__}")
    t: Tensor = as_tensor(name, x)
    if t.numel() == 0 and not isinstance(x, Tensor) and not hasattr(x, "__array__"):
        t = t.to(torch.int64)  # an empty list is a float tensor
    if t.dtype == torch.bool or t.dtype.is_floating_point or t.dtype.is_complex:
        raise TypeError(f"{name}: expected integers, got {t.dtype}")
    if t.is_meta and device is not None and torch.device(device).type != "meta":
        raise TypeError(f"{name}: expected a tensor with values, got a tensor on meta")
    return t.to(device=device, dtype=torch.int64)


def row_ids(name: str, ids: Any, rows: Tensor) -> Tensor | None:
    """``[B]`` integers, any kind that `integers` takes, for rows ``[B, ...]`` -> int64 on their device; None stays."""
    if ids is None:
        return None
    t = integers(name, ids, None if isinstance(ids, Tensor) else rows.device)
    if t.shape != rows.shape[:1] or t.device != rows.device:
        raise ValueError(f"{name}: expected [B] = [{rows.shape[0]}] on {rows.device}, got {list(t.shape)} on {t.device}")
    return t


def offsets(name: str, x: Any, N: int, *, padded: bool = False) -> None:
    """``[B + 1]`` int64 that rise from 0 to N, or ``padded`` at most: row b has the entries ``x[b] .. x[b + 1]``."""
    if not isinstance(x, Tensor) or x.dtype != torch.int64:
        raise TypeError(f"{name}: expected an int64 tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    dense(name, x)
    if x.dim() != 1 or not x.numel():
        raise ValueError(f"{name}: expected [B + 1], got {list(x.shape)}")
    if can_read_values(x):
        last = int(x[-1])
        if int(x[0]) != 0 or last > N or (last < N and not padded) or bool((x.diff() < 0).any()):
            raise ValueError(f"{name}: expected to rise from 0 to {'at most ' if padded else ''}{N}, got {x.tolist()[:8]}")


def capacity(x: Any, rows: Tensor) -> tuple[Tensor | None, float]:
    """A number, a tensor ``[B]`` or ``[]``, or None for no cap -> a tensor ``[B]`` or None, and the number, infinite for none."""
    if x is None:
        return None, math.inf
    if not isinstance(x, Tensor):
        cap = number("capacity", x, "a number, a tensor of shape [B] or None")
        if not cap >= 0:
            raise ValueError(f"capacity: expected 0 or more, got {x}")
        return None, cap
    floating("capacity", x)
    same_device("capacity", x, "the rows", rows)
    B = rows.shape[0]
    if x.dim() == 0:
        x = x.expand(B)
    if x.shape != (B,):
        raise ValueError(f"capacity: expected a number or a tensor of shape [B] = [{B}], got {list(x.shape)}")
    at_least_zero("capacity", x)
    return x, math.inf
