"""One step of diffusion or flow matching, and the timesteps of a chain, in plain torch.

One form for every prediction and process, with six coefficients per row, computed in fp64:
``x0 = clip(c0 x + c1 output)``, ``x_s = d0 x0 + d1 x + d2 output + sigma noise``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import rng
from ._common import compute_dtype

EPS, X0, V, FLOW = 0, 1, 2, 3

Coefficients = tuple[Tensor, ...]


def per_row(t: Tensor | None, number: float, like: Tensor) -> Tensor:
    """A number per row in fp64: [B] or [B,K], or one for all []."""
    return torch.full((), number, dtype=torch.float64, device=like.device) if t is None else t.to(torch.float64)


def x0_coefficients(kind: int, t: Tensor) -> Coefficients:
    """c0, c1."""
    one = torch.ones_like(t)
    if kind == FLOW:
        return one, -t
    if kind == X0:
        return 0 * one, one
    a, n = torch.sqrt(t), torch.sqrt(1 - t)
    return (1 / a, -n / a) if kind == EPS else (a, -n)


def eps_coefficients(kind: int, t: Tensor, reclip: bool) -> Coefficients:
    """e0, e1, e2 of ``eps = e0 x + e1 output + e2 x0``."""
    zero, a, n = torch.zeros_like(t), torch.sqrt(t), torch.sqrt(1 - t)
    if reclip:
        return 1 / n, zero, -a / n
    if kind == EPS:
        return zero, zero + 1, zero
    return (1 / n, -a / n, zero) if kind == X0 else (n, a, zero)


def variance(t: Tensor, s: Tensor, eta: float) -> Tensor:
    """sigma^2."""
    return eta**2 * ((1 - s) / (1 - t)) * (1 - t / s) if eta else torch.zeros_like(t * s)


def step_coefficients(kind: int, t: Tensor, s: Tensor, eta: float, reclip: bool) -> Coefficients:
    """d0, d1, d2, sigma."""
    if kind == FLOW:
        zero = torch.zeros_like(s - t)
        return zero, zero + 1, s - t, zero
    done = (t == 1) & (s == 1)  # no noise to tell epsilon by, nor to go on with: x_s is the estimate of x0
    t = torch.where(done, 0.5, t)
    e0, e1, e2 = eps_coefficients(kind, t, reclip)
    var = variance(t, s, eta)
    q = torch.sqrt((1 - s - var).clamp(min=0))
    sigma = torch.sqrt(var) if eta else var
    return torch.sqrt(s) + q * e2, q * e0, q * e1, sigma


def to_rows(coefficients: Coefficients, like: Tensor) -> Coefficients:
    """In the dtype that like is computed in, against [B,D] or [B,K,D]."""
    return tuple(c.to(compute_dtype(like))[..., None] for c in coefficients)


def estimate_x0(x: Tensor, output: Tensor, t: Tensor, kind: int, clip: float) -> Tensor:
    x0 = unclipped_x0(x, output, t, kind)
    return x0 if clip == math.inf else x0.clamp(-clip, clip)


def unclipped_x0(x: Tensor, output: Tensor, t: Tensor, kind: int) -> Tensor:
    dtype = compute_dtype(x)
    if kind == X0:
        return output.to(dtype)
    c0, c1 = to_rows(x0_coefficients(kind, t), x)
    return c0 * x.to(dtype) + c1 * output.to(dtype)


def step_noise(x: Tensor, noise: Tensor | None, row_ids: Tensor | None, random: bool, seed: int, step: int) -> Tensor | None:
    """The given noise, or that of each row b, with offset k D + d."""
    if noise is not None or not random:
        return noise
    ids = torch.arange(x.shape[0], device=x.device) if row_ids is None else row_ids
    return rng.random_normal(ids, None, 0, seed, step, x[0].numel() if x.shape[0] else 0).reshape(x.shape)


def step_backward(
    x: Tensor, output: Tensor, t: Tensor, coefficients: Coefficients | None, xi: Tensor | None, g_xs: Tensor | None,
    g_x0: Tensor | None, kind: int, clip: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, output and noise, and of the six coefficients per row [..., 6]; coefficients None: of x0 alone."""
    dtype = compute_dtype(x)
    unclipped, x_, o_ = unclipped_x0(x, output, t, kind), x.to(dtype), output.to(dtype)
    zero = torch.zeros_like(x_)
    gs, h = (zero if g is None else g.to(dtype) for g in (g_xs, g_x0))
    c0, c1 = to_rows(x0_coefficients(kind, t), x)
    d0, d1, d2, sigma = to_rows(coefficients, x) if coefficients else (0.0, 0.0, 0.0, 0.0)
    h = torch.where((unclipped >= -clip) & (unclipped <= clip), h + d0 * gs, 0.0)
    xi_ = zero if xi is None else xi.to(dtype)
    pairs = (h, x_), (h, o_), (gs, unclipped.clamp(-clip, clip)), (gs, x_), (gs, o_), (gs, xi_)
    dots = torch.stack([(g * y).sum(-1) for g, y in pairs], -1)
    return (c0 * h + d1 * gs).to(x.dtype), (c1 * h + d2 * gs).to(x.dtype), (sigma * gs).to(x.dtype), dots


def x0_slopes(kind: int, t: Tensor) -> Coefficients:
    """d(c0, c1) / dt."""
    zero = torch.zeros_like(t)
    if kind in (FLOW, X0):
        return zero, (zero - 1 if kind == FLOW else zero)
    a, n = torch.sqrt(t), torch.sqrt(1 - t)
    return (-0.5 / (a * t), 0.5 / (a * t * n)) if kind == EPS else (0.5 / a, 0.5 / n)


def step_slopes(kind: int, t: Tensor, s: Tensor, eta: float, reclip: bool) -> tuple[Coefficients, Coefficients]:
    """d(d0, d1, d2, sigma) / dt and / ds."""
    zero = torch.zeros_like(s * t)
    if kind == FLOW:
        return (zero, zero, zero - 1, zero), (zero, zero, zero + 1, zero)
    a, n = torch.sqrt(t), torch.sqrt(1 - t)
    e0, e1, e2 = eps_coefficients(kind, t, reclip)
    by_n, by_a = 0.5 / n**3, -0.5 / (a * n**3)  # slopes of 1 / n and of -a / n
    f0, f1, f2 = (by_n, 0, by_a) if reclip else ((0, 0, 0), (by_n, by_a, 0), (-0.5 / n, 0.5 / a, 0))[kind]
    var = variance(t, s, eta)
    q = torch.sqrt((1 - s - var).clamp(min=0))
    var_t = var_s = zero
    if eta:
        var_t = -(eta**2) * (1 - s) ** 2 / (s * (1 - t) ** 2)
        var_s = eta**2 / (1 - t) * ((1 - s) * t / s**2 - (1 - t / s))
    q_t, q_s = -0.5 * var_t / q, -0.5 * (1 + var_s) / q
    sigma_t, sigma_s = (0.5 * v / torch.sqrt(var) if eta else zero for v in (var_t, var_s))
    if not eta:
        q_t = zero
    by_t = (q_t * e2 + q * f2, q_t * e0 + q * f0, q_t * e1 + q * f1, sigma_t)
    return by_t, (0.5 / torch.sqrt(s) + q_s * e2, q_s * e0, q_s * e1, sigma_s)


def chain_steps(steps: int | Sequence[int], T: int, aligned: Sequence[int] = ()) -> list[int]:
    """The timesteps that a chain visits, descending: a list as it is, or that many with trailing spacing, united with ``aligned``.

    Trailing: ``T - i T / steps`` rounded, so that T is always visited. ``ValueError`` for steps that do not strictly descend within
    [1, T], and for a list that skips an aligned one.
    """
    if isinstance(steps, int):
        if not 1 <= steps <= T:
            raise ValueError(f"steps: expected a number in [1, {T}] or a list, got {steps}")
        return sorted({*(round(T * (steps - i) / steps) for i in range(steps)), *aligned}, reverse=True)
    check_descending("steps", steps, T)
    skipped = [t for t in aligned if t not in steps]
    if skipped:
        raise ValueError(f"steps: expected to contain the aligned timesteps, got none of {skipped}")
    return list(steps)


def any_noise(alpha_bar: Sequence[float], steps: Sequence[int]) -> bool:
    """Does any step of the chain, from t to the next timestep or 0, have a variance? As far as numbers on the host can tell."""
    return any(alpha_bar[t] < alpha_bar[s] < 1 for t, s in zip(steps, (*steps[1:], 0), strict=True))


def check_descending(name: str, steps: Sequence[int], T: int) -> None:
    if not steps or not all(a > b for a, b in zip([T + 1, *steps], [*steps, 0], strict=True)):
        raise ValueError(f"{name}: expected strictly descending timesteps in [1, {T}], got {list(steps)}")
