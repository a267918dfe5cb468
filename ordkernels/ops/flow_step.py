"""One Euler step of flow matching: the kernel of `reverse_step` with kind FLOW, and times in place of the alpha bars."""

import math

from torch import Tensor

from .._validation import tensors as checks
from ..reference._diffusion import FLOW
from ._diffusion import check_like, level_per_row
from ._register import register_alias
from .reverse_step import _OP

__all__ = ["flow_step"]


def flow_step(x_t: Tensor, velocity: Tensor, t: float | Tensor, s: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""One Euler step of flow matching from time t to s, and the estimate of x0.

    .. math:: x_s = x_t + (s - t) v, \quad \hat x_0 = x_t - t v

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        velocity: like x_t, an estimate of ``noise - x0``.
        t, s: in [0, 1]; shapes as alpha_bar's in :func:`q_sample`.

    Returns:
        x_s and x0, like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: as :func:`flow_sample`.

    Example:
        >>> import torch
        >>> from ordkernels.ops import flow_step
        >>> flow_step(torch.ones(1, 2), torch.ones(1, 2), 0.5, 0.25)
        (tensor([[0.7500, 0.7500]]), tensor([[0.5000, 0.5000]]))
    """
    if checks.autocast_is_active():
        x_t, velocity = checks.promoted(x_t, velocity)
    check_like("velocity", velocity, x_t)
    t_rows, t_number = level_per_row("t", t, x_t, time=True)
    s_rows, s_number = level_per_row("s", s, x_t, time=True)
    return _OP(x_t, velocity, t_rows, s_rows, None, None, t_number, s_number, 0.0, FLOW, math.inf, False, False, 0, 0)


register_alias("flow_step", serves="reverse_step")
