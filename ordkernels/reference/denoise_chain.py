"""The reverse chain, step by step: the definition of ``denoise_chain``, for any denoiser.

At each timestep t of ``steps`` (descending), with s the next one (0 after the last): the denoiser's output at t, then one
``reverse_step`` from t to s; the estimate of x0 that it goes through is returned where t is aligned. The last x_s is x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from . import rng
from ._common import rows_on_host
from ._diffusion import EPS, X0, V, check_descending, step_coefficients, x0_coefficients
from ._diffusion import chain_steps as any_steps
from .reverse_step import reverse_step

KINDS = {"eps": EPS, "x0": X0, "v": V}


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
    x, states = x_T, []
    for i, t in enumerate(steps):
        s = steps[i + 1] if i + 1 < len(steps) else 0
        xi = noise(i, t) if noise is not None and eta > 0 and s > 0 else None
        out = denoiser(x, t, cond)
        x, x0 = reverse_step(
            x, out, None, None, xi, None, ab[t], ab[s], eta if s > 0 else 0.0, KINDS[prediction], limit, False, False, 0, 0
        )
        if t in aligned:
            states.append(x0)
    return x, torch.stack(states, dim=1)


def chain_coefficients(alpha_bar: Sequence[float], steps: Sequence[int], aligned: Sequence[int], kind: int, eta: float) -> Tensor:
    """[S, 8] fp64, for each step what it is computed with: c0, c1, d0, d1, d2, sigma of ``reference.denoise``, its timestep, and its
    place among the aligned ones or -1. The last step, to 0, is without noise."""
    t = torch.tensor([alpha_bar[i] for i in steps], dtype=torch.float64)
    s = torch.tensor([alpha_bar[i] for i in (*steps[1:], 0)], dtype=torch.float64)
    d0, d1, d2, sigma = step_coefficients(kind, t, s, eta, False)
    place = [aligned.index(i) if i in aligned else -1 for i in steps]
    more = (torch.tensor(n, dtype=torch.float64) for n in (steps, place))
    return torch.stack((*x0_coefficients(kind, t), d0, d1, d2, sigma, *more), dim=-1)


def chain_from_weights(
    x: Tensor, cond: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor, embedding: Tensor,
    step_coefficients: Tensor, noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None, K: int, clip: float, seed: int,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The chain of an MLP denoiser from its weights: what a timestep or a condition adds to the hidden layer is computed once."""
    D = x.shape[1]
    time = F.linear(embedding, w_in[:, D:], b_in)  # [S, H]
    shift = F.linear(cond, w_cond)  # [B, H]
    states: list[Tensor] = [x] * K
    for i, (c0, c1, d0, d1, d2, sigma, t, place) in enumerate(rows_on_host(step_coefficients)):
        out = F.linear(F.silu(F.linear(x, w_in[:, :D]) + (time[i] + shift)), w_out, b_out)
        x0 = (out if (c0, c1) == (0, 1) else c0 * x + c1 * out).clamp(-clip, clip)
        x = d0 * x0 + d1 * x + d2 * out
        if sigma:
            if noise is not None:
                x = x + sigma * noise[i]
            else:
                assert row_ids is not None
                x = x + sigma * rng.random_normal(row_ids, draw_ids, 0, seed, int(t), D).to(x.dtype)
        if place >= 0:
            states[int(place)] = x0
    return x, torch.stack(states, dim=1)


def chain_steps(steps: int | Sequence[int], aligned: Sequence[int], T: int) -> list[int]:
    """The timesteps visited: as `_diffusion.chain_steps`, with at least one aligned one."""
    check_descending("aligned", aligned, T)
    return any_steps(steps, T, aligned)
