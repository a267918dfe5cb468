"""What the references of value tokens share.

``m = argmax_j x_j`` is a constant for the gradients; of equal ones the first. A row without a softmax (NaN, +inf, all -inf) is NaN.
A window below 0 is the whole vocabulary.
"""

import torch
from torch import Tensor


def near(x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """x [R,V] -> is |j - m| <= window // 2 [R,V], m [R,1]."""
    m = x.argmax(-1, keepdim=True)
    return (torch.arange(x.shape[-1], device=x.device) - m).abs() <= window // 2, m
