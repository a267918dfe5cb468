"""The reverse chain, step by step: the definition of ``denoise_chain``, for any denoiser.

At each timestep t of ``steps`` (descending), with s the next one (0 after the last): ``x0hat`` from the denoiser's output at t,
kept if t is aligned; then ``x_s = sqrt(ab_s) x0hat + sqrt(1 - ab_s - sigma^2) epshat + sigma noise``. The last ``x_s`` is ``x_0``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def denoise_chain(
    x_T: Tensor,
    cond: Tensor,
    denoiser: Callable[[Tensor, int, Tensor], Tensor],
    alpha_bar: Tensor,
    steps: Sequence[int],
    aligned: Sequence[int],
    *,
    prediction: str = "v",
    eta: float = 0.0,
    clip: float | None = None,
    noise: Callable[[int, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """x_T [B, D], cond [B, C], alpha_bar [T + 1] -> (x_0 [B, D], x0_at_aligned [B, K, D]).

    ``steps`` descends within [1, T] and contains every aligned timestep; ``noise(i, t)`` is the [B, D] noise of the
    i-th step, which is at timestep t (not asked for where eta = 0).
    """
    kept: dict[int, Tensor] = {}
    x = x_T
    for i, t in enumerate(steps):
        s = steps[i + 1] if i + 1 < len(steps) else 0
        out = denoiser(x, t, cond)
        x0, eps = estimates(x, out, alpha_bar[t], prediction, clip)
        if t in aligned:
            kept[t] = x0
        sigma = eta * ((1 - alpha_bar[s]) / (1 - alpha_bar[t])).sqrt() * (1 - alpha_bar[t] / alpha_bar[s]).sqrt()
        x = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s] - sigma**2).clamp(min=0).sqrt() * eps
        if noise is not None and eta > 0:
            x = x + sigma * noise(i, t)
    return x, torch.stack([kept[t] for t in aligned], dim=1)


def estimates(x: Tensor, out: Tensor, ab: Tensor, prediction: str, clip: float | None) -> tuple[Tensor, Tensor]:
    """(x0hat, epshat) from a denoiser's output; with ``clip`` x0hat is held in [-clip, clip] and epshat made to agree with it."""
    a, b = ab.sqrt(), (1 - ab).sqrt()
    x0 = {"eps": lambda: (x - b * out) / a, "x0": lambda: out, "v": lambda: a * x - b * out}[prediction]()
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    elif prediction != "x0":
        return x0, out if prediction == "eps" else a * out + b * x
    return x0, (x - a * x0) / b


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
