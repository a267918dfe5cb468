"""One Euler step of flow matching. It is ``reverse_step`` with ``kind = FLOW``: the alpha bars are the times."""

import math

from torch import Tensor

from ._diffusion import FLOW
from .reverse_step import reverse_step


def flow_step(x_t: Tensor, velocity: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
    """x_t, velocity [B,D] | [B,K,D] -> x_s, x0 like x_t."""
    return reverse_step(x_t, velocity, None, None, None, None, t, s, 0.0, FLOW, math.inf, False, False, 0, 0)
