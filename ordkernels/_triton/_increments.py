"""What encode_increments and nested_min share on a GPU."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def clip(v, w):
    """torch.clamp(v, 0, w): NaN in either gives NaN."""
    a = tl.where(v < 0, 0.0, v)
    return tl.where(a <= w, a, tl.where(a == a, w, a))


def compute_dtype(t: Tensor) -> tuple[torch.dtype, Any]:
    """In torch and in Triton: fp64 stays, all else is computed in fp32."""
    return (torch.float64, tl.float64) if t.dtype == torch.float64 else (torch.float32, tl.float32)
