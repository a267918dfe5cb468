"""What the row-wise scores share: their two arguments as tensors, and the check for NaN."""

from typing import Any

import torch
from torch import Tensor

from .._validation import arrays
from .._validation import tensors as checks


def score_tensors(**named: Any) -> list[Tensor]:
    """The two arguments of a row-wise score as tensors of one floating dtype, fp32 or fp64, on one device."""
    tensors = []
    for name, x in named.items():
        t = arrays.as_tensor(name, x)
        checks.dense(name, t)
        if t.is_complex() or (t.is_floating_point() and t.dtype not in checks.FLOATS):
            raise TypeError(f"{name}: expected numbers, got {t.dtype}")
        if t.dtype in (torch.int64, torch.uint64) and checks.can_read_values(t) and arrays.is_beyond_fp64(t.numpy()):
            raise ValueError(f"{name}: expected whole numbers that a float64 holds, got {t.dtype} beyond 2^53")
        tensors.append(t if t.is_floating_point() else t.double())
    (first, a), (second, b) = zip(named, tensors, strict=True)
    if a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64) and a.device == b.device:
        return tensors
    if a.is_meta != b.is_meta:
        raise TypeError(f"{first if a.is_meta else second}: expected a tensor with values, got a tensor on meta")
    if isinstance(named[first], Tensor) and isinstance(named[second], Tensor) and a.device != b.device:
        raise ValueError(f"{second}: expected the device of {first}, {a.device}, got {b.device}")
    dtype = torch.promote_types(torch.promote_types(a.dtype, torch.float32), b.dtype)
    return [a.to(dtype), b.to(device=a.device, dtype=dtype)]


def reject_nan(out: Tensor, **named: Tensor) -> None:
    """Where no gradient is asked for. A NaN shows in its row's result, which is the smaller one to search."""
    if not out.numel() or out.requires_grad or any(t.requires_grad for t in named.values()) or not checks.can_read_values(out):
        return
    if not torch.isnan(out.min()):  # the minimum of anything with a NaN is NaN
        return
    for name, t in named.items():
        rows = torch.isnan(t).reshape(t.shape[0], -1).any(1)
        if rows.any():
            raise ValueError(
                f"{name}: expected no NaN, got it in {int(rows.sum())} of {len(rows)} rows, the first at index {int(rows.int().argmax())}"
            )
