"""The reverse chain, step by step: the definition of ``denoise_chain``, for any denoiser.

At each timestep t of ``steps`` (descending), with s the next one (0 after the last): the denoiser's output at t, then one
``reverse_step`` from t to s; the estimate of x0 that it goes through is kept where t is aligned. The last x_s is x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import denoise

KINDS = {"eps": denoise.EPS, "x0": denoise.X0, "v": denoise.V}


def denoise_chain(
    x_T: Tensor,
    cond: Tensor,
    denoiser: Callable[[Tensor, int, Tensor], Tensor],
    alpha_bar: Tensor | Sequence[float],
    steps: Sequence[int],
    aligned: Sequence[int],
    *,
    prediction: str = "v",
    eta: float = 0.0,
    clip: float | None = None,
    noise: Callable[[int, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """x_T [B, D], cond [B, C], alpha_bar [T + 1] -> (x_0 [B, D], x0_at_aligned [B, K, D]).

    ``steps`` and ``aligned`` descend within [1, T], and steps contains every aligned timestep; ``noise(i, t)`` is the [B, D]
    noise of the i-th step, which is at timestep t, for ``eta > 0``.
    """
    ab = [float(a) for a in alpha_bar]
    limit = math.inf if clip is None else clip
    x, kept = x_T, []
    for i, t in enumerate(steps):
        s = steps[i + 1] if i + 1 < len(steps) else 0
        xi = noise(i, t) if noise is not None and eta > 0 and s > 0 else None
        out = denoiser(x, t, cond)
        x, x0 = denoise.reverse_step(
            x, out, None, None, xi, None, ab[t], ab[s], eta if s > 0 else 0.0, KINDS[prediction], limit, False, False, 0, 0
        )
        if t in aligned:
            kept.append(x0)
    return x, torch.stack(kept, dim=1)


def chain_steps(steps: int | Sequence[int], aligned: Sequence[int], T: int) -> list[int]:
    """The timesteps that a chain visits, descending: a list as it is, or that many with trailing spacing, united with ``aligned``.

    Trailing: ``T - i T / steps`` rounded, so that T is always visited. ``ValueError`` for steps or aligned timesteps that
    do not strictly descend within [1, T], and for a list that skips an aligned one.
    """
    _descending("aligned", aligned, T)
    if isinstance(steps, int):
        if not 1 <= steps <= T:
            raise ValueError(f"steps: expected a number in [1, {T}] or a list, got {steps}")
        return sorted({*(round(T * (steps - i) / steps) for i in range(steps)), *aligned}, reverse=True)
    _descending("steps", steps, T)
    skipped = [t for t in aligned if t not in steps]
    if skipped:
        raise ValueError(f"steps: expected to contain the aligned timesteps, got none of {skipped}")
    return list(steps)


def _descending(name: str, steps: Sequence[int], T: int) -> None:
    if not steps or not all(a > b for a, b in zip([T + 1, *steps], [*steps, 0], strict=True)):
        raise ValueError(f"{name}: expected strictly descending timesteps in [1, {T}], got {list(steps)}")
