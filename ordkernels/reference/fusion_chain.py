"""The guided chain, step by step: the definition of ``fusion_chain``, for any denoiser of three branches.

At each timestep t of ``steps`` (descending), with s the next one (0 after the last): the three estimates of x0 at t, then one
``guided_posterior_step`` from t to s. It starts from the long-term interest, and rows without a session keep that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from . import rng
from ._common import rows_on_host
from .guided_posterior_step import guided_posterior_step, posterior_coefficients


def fusion_chain(
    h_long: Tensor,
    mask: Tensor,
    branches: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]],
    alpha_bar: Tensor | Sequence[float],
    steps: Sequence[int],
    *,
    gamma_cp: float = 2.0,
    gamma_tf: float = 1.0,
    noise: Callable[[int, int], Tensor] | None = None,
) -> Tensor:
    """h_long [B, D], mask [B, K] -> [B, D]; ``branches(x, t)`` are f_un, f_cp, f_tf, and ``noise(i, t)`` is the noise of the i-th step."""
    ab = [float(a) for a in alpha_bar]
    x = h_long
    for i, t in enumerate(steps):
        s = steps[i + 1] if i + 1 < len(steps) else 0
        xi = noise(i, t) if noise is not None and s > 0 else None
        x, _ = guided_posterior_step(x, *branches(x, t), None, None, xi, None, ab[t], ab[s], gamma_cp, gamma_tf, False, False, 0, 0)
    return torch.where(mask.any(1)[:, None], x, h_long)


def fusion_coefficients(alpha_bar: Sequence[float], steps: Sequence[int]) -> Tensor:
    """[S, 4] fp64, for each step what it is computed with: d0, d1, sigma of the posterior, and its timestep."""
    t = torch.tensor([alpha_bar[i] for i in steps], dtype=torch.float64)
    s = torch.tensor([alpha_bar[i] for i in (*steps[1:], 0)], dtype=torch.float64)
    return torch.stack((*posterior_coefficients(t, s, False), torch.tensor(steps, dtype=torch.float64)), dim=-1)


def guided_branches(g_cp: Tensor, g_tf: Tensor, gamma_cp: float, gamma_tf: float) -> tuple[list[tuple[Tensor, float]], float]:
    """The guidance that acts, each with its gamma; and the weight of the estimate without guidance, exactly 0 for gammas of sum 1."""
    guided = [(g, gamma) for g, gamma in ((g_cp, gamma_cp), (g_tf, gamma_tf)) if gamma]
    total = sum(gamma for _, gamma in guided)
    return guided, 0.0 if total == 1 else 1.0 - total


def chain_from_weights(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, w_in: Tensor, b_in: Tensor, w_cond: Tensor, w_out: Tensor, b_out: Tensor,
    empty: Tensor, embedding: Tensor, step_coefficients: Tensor, noise: Tensor | None, row_ids: Tensor | None,
    draw_ids: Tensor | None, gamma_cp: float, gamma_tf: float, seed: int,
) -> Tensor:  # fmt: skip
    """The chain of a session denoiser from its weights: what a timestep or a session adds to the hidden layer is computed once."""
    D, K = h_long.shape[1], mask.shape[1]
    w = w_in[:, :D]
    time = F.linear(embedding, w_in[:, D:], b_in)  # [S, H]
    guided, c_un = guided_branches(g_cp, g_tf, gamma_cp, gamma_tf)
    shifts = [F.linear(empty, w_cond).expand(*mask.shape, -1)] if c_un else []  # of each branch, [B, K, H]
    shifts += [F.linear(torch.where(mask[..., None], g, 0.0), w_cond) for g, _ in guided]
    shift = torch.stack(shifts)  # [branches, B, K, H]
    weights = [c for c in (c_un, *(gamma for _, gamma in guided)) if c]  # of the branches
    x = h_long
    for i, (d0, d1, sigma, t) in enumerate(rows_on_host(step_coefficients)):
        f = x.expand(len(shifts), *x.shape)
        for k in range(K):
            y = F.linear(F.silu(F.linear(f, w) + (time[i] + shift[:, :, k])), w_out, b_out)
            f = torch.where(mask[:, k, None], y, f)
        x = d0 * sum(c * part for c, part in zip(weights, f, strict=True)) + d1 * x
        if sigma:
            if noise is not None:
                x = x + sigma * noise[i]
            else:
                assert row_ids is not None
                x = x + sigma * rng.random_normal(row_ids, draw_ids, 0, seed, int(t), D).to(x.dtype)
    return torch.where(mask.any(1)[:, None], x, h_long)
