"""Argument checks of the public functions. Every message names the argument, what was expected and what came."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def floating(name: str, t: Any) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(t).__name__}")
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {t.dtype}")


def same(name: str, t: Any, other_name: str, other: Tensor) -> None:
    """A floating tensor of the other's dtype and device."""
    floating(name, t)
    if t.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {t.dtype}")
    if t.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}, got {t.device}")


def dims(name: str, t: Tensor, allowed: Sequence[int], form: str) -> None:
    if t.dim() not in allowed:
        raise ValueError(f"{name}: expected {form}, got {t.dim()} dimensions, shape {list(t.shape)}")


def shape(name: str, t: Tensor, expected: Sequence[int], form: str) -> None:
    if tuple(t.shape) != tuple(expected):
        raise ValueError(f"{name}: expected {form} = {list(expected)}, got {list(t.shape)}")


def may_look(t: Tensor) -> bool:
    """May its values be looked at? On a CPU in eager mode; elsewhere that would wait for the device or break the graph."""
    return (
        t.device.type == "cpu"
        and type(t) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def at_least_zero(name: str, t: Tensor) -> None:
    n = t.numel()
    if not n or not may_look(t):
        return
    least = min(t.tolist()) if n <= 16 else (t.detach() if t.requires_grad else t).min().item()  # a few are fastest as a list
    if least < 0:
        raise ValueError(f"{name}: expected 0 or more, got {least}")
