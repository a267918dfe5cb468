"""Noising, the estimate of x0 and one reverse step in plain torch: the definition that every kernel is held to.

One form for every prediction and process, with six numbers per row, made in fp64:
``x0 = clip(c0 x + c1 output)``, ``x_s = d0 x0 + d1 x + d2 output + sigma noise``.
"""

import math

import torch
from torch import Tensor

from . import rng
from .planar_flow import compute_dtype

EPS, X0, V, FLOW = 0, 1, 2, 3

Numbers = tuple[Tensor, ...]


def per_row(t: Tensor | None, number: float, like: Tensor) -> Tensor:
    """A number per row in fp64: [B] or [B,K], or one for all []."""
    return torch.full((), number, dtype=torch.float64, device=like.device) if t is None else t.to(torch.float64)


def sample_numbers(kind: int, t: Tensor) -> Numbers:
    """c0, c1 of ``c0 x0 + c1 noise``; kind 0 diffusion, 1 flow matching."""
    return (1 - t, t) if kind else (torch.sqrt(t), torch.sqrt(1 - t))


def x0_numbers(kind: int, t: Tensor) -> Numbers:
    """c0, c1."""
    one = torch.ones_like(t)
    if kind == FLOW:
        return one, -t
    if kind == X0:
        return 0 * one, one
    a, n = torch.sqrt(t), torch.sqrt(1 - t)
    return (1 / a, -n / a) if kind == EPS else (a, -n)


def eps_numbers(kind: int, t: Tensor, reclip: bool) -> Numbers:
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


def step_numbers(kind: int, t: Tensor, s: Tensor, eta: float, reclip: bool) -> Numbers:
    """d0, d1, d2, sigma."""
    if kind == FLOW:
        zero = torch.zeros_like(s - t)
        return zero, zero + 1, s - t, zero
    e0, e1, e2 = eps_numbers(kind, t, reclip)
    var = variance(t, s, eta)
    q = torch.sqrt((1 - s - var).clamp(min=0))
    return torch.sqrt(s) + q * e2, q * e0, q * e1, torch.sqrt(var) if eta else var


def _to_rows(numbers: Numbers, like: Tensor) -> Numbers:
    """In the dtype that like is computed in, against [B,D] or [B,K,D]."""
    return tuple(c.to(compute_dtype(like))[..., None] for c in numbers)


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, a: float, kind: int = 0) -> Tensor:
    """x0 [B,D] or like noise, noise [B,D] | [B,K,D] -> like noise."""
    dtype = compute_dtype(noise)
    c0, c1 = _to_rows(sample_numbers(kind, per_row(alpha_bar, a, noise)), noise)
    x0 = x0[:, None] if x0.dim() < noise.dim() else x0
    return (c0 * x0.to(dtype) + c1 * noise.to(dtype)).to(noise.dtype)


def q_sample_backward(
    x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x0, of noise, and of c0, c1 per row; empty where not wanted."""
    dtype = compute_dtype(noise)
    c0, c1 = _to_rows(sample_numbers(kind, per_row(alpha_bar, a, noise)), noise)
    g = torch.zeros_like(noise, dtype=dtype) if g is None else g.to(dtype)
    x = (x0[:, None] if x0.dim() < noise.dim() else x0).to(dtype)
    gx = c0 * g
    gx = gx.sum(1) if x0.dim() < noise.dim() else gx
    dots = torch.stack([(g * x).sum(-1), (g * noise.to(dtype)).sum(-1)], -1)
    return _only(wanted & 1, gx.to(noise.dtype)), _only(wanted & 2, (c1 * g).to(noise.dtype)), _only(wanted & 4, dots)


def predict_x0(x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, a: float, kind: int, clip: float) -> Tensor:
    """x_t, output [B,D] | [B,K,D] -> like x_t."""
    return _x0(x_t, output, per_row(alpha_bar, a, x_t), kind, clip).to(x_t.dtype, copy=True)


def _x0(x: Tensor, output: Tensor, t: Tensor, kind: int, clip: float) -> Tensor:
    raw = _raw_x0(x, output, t, kind)
    return raw if clip == math.inf else raw.clamp(-clip, clip)


def _raw_x0(x: Tensor, output: Tensor, t: Tensor, kind: int) -> Tensor:
    dtype = compute_dtype(x)
    if kind == X0:
        return output.to(dtype)
    c0, c1 = _to_rows(x0_numbers(kind, t), x)
    return c0 * x.to(dtype) + c1 * output.to(dtype)


def predict_x0_backward(
    x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, clip: float, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x_t, of output, and of c0, c1 per row; empty where not wanted."""
    gx, go, _, dots = _backward(x_t, output, per_row(alpha_bar, a, x_t), None, None, None, g, kind, clip)
    return _only(wanted & 1, gx), _only(wanted & 2, go), _only(wanted & 4, dots[..., :2].contiguous())


def step_noise(x: Tensor, noise: Tensor | None, row_ids: Tensor | None, random: bool, seed: int, step: int) -> Tensor | None:
    """Given, or made per row b with lane k D + d."""
    if noise is not None or not random:
        return noise
    ids = torch.arange(x.shape[0], device=x.device) if row_ids is None else row_ids
    return rng.random_normal(ids, None, 0, seed, step, x[0].numel() if x.shape[0] else 0).reshape(x.shape)


def reverse_step(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x_t, output [B,D] | [B,K,D] -> x_s, x0 like x_t."""
    dtype = compute_dtype(x_t)
    t, s = per_row(alpha_bar_t, a_t, x_t), per_row(alpha_bar_s, a_s, x_t)
    x0 = _x0(x_t, output, t, kind, clip)
    d0, d1, d2, sigma = _to_rows(step_numbers(kind, t, s, eta, reclip), x_t)
    x_s = d0 * x0 + d1 * x_t.to(dtype) + d2 * output.to(dtype)
    xi = step_noise(x_t, noise, row_ids, random, seed, step)
    if xi is not None:
        x_s = x_s + sigma * xi.to(dtype)
    return x_s.to(x_t.dtype), x0.to(x_t.dtype, copy=True)


def reverse_step_backward(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    g_xs: Tensor | None, g_x0: Tensor | None,
    a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int, wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x_t, output and noise, and of c0, c1, d0, d1, d2, sigma per row; empty where not wanted."""
    t, s = per_row(alpha_bar_t, a_t, x_t), per_row(alpha_bar_s, a_s, x_t)
    numbers = step_numbers(kind, t, s, eta, reclip)
    xi = step_noise(x_t, noise, row_ids, random and bool(wanted & 12), seed, step)
    gx, go, gn, dots = _backward(x_t, output, t, numbers, xi, g_xs, g_x0, kind, clip)
    return _only(wanted & 1, gx), _only(wanted & 2, go), _only(wanted & 16, gn), _only(wanted & 12, dots)


def _backward(
    x: Tensor, output: Tensor, t: Tensor, numbers: Numbers | None, xi: Tensor | None, g_xs: Tensor | None,
    g_x0: Tensor | None, kind: int, clip: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dtype = compute_dtype(x)
    raw, x_, o_ = _raw_x0(x, output, t, kind), x.to(dtype), output.to(dtype)
    zero = torch.zeros_like(x_)
    gs, h = (zero if g is None else g.to(dtype) for g in (g_xs, g_x0))
    c0, c1 = _to_rows(x0_numbers(kind, t), x)
    d0, d1, d2, sigma = _to_rows(numbers, x) if numbers else (0.0, 0.0, 0.0, 0.0)
    h = torch.where((raw >= -clip) & (raw <= clip), h + d0 * gs, 0.0)
    xi_ = zero if xi is None else xi.to(dtype)
    pairs = (h, x_), (h, o_), (gs, raw.clamp(-clip, clip)), (gs, x_), (gs, o_), (gs, xi_)
    dots = torch.stack([(g * y).sum(-1) for g, y in pairs], -1)
    return (c0 * h + d1 * gs).to(x.dtype), (c1 * h + d2 * gs).to(x.dtype), (sigma * gs).to(x.dtype), dots


def _only(wanted: int, t: Tensor) -> Tensor:
    return t if wanted else t.new_empty(0)


def sample_slopes(kind: int, t: Tensor) -> Numbers:
    """d(c0, c1) / dt."""
    one = torch.ones_like(t)
    return (-one, one) if kind else (0.5 / torch.sqrt(t), -0.5 / torch.sqrt(1 - t))


def x0_slopes(kind: int, t: Tensor) -> Numbers:
    """d(c0, c1) / dt."""
    zero = torch.zeros_like(t)
    if kind in (FLOW, X0):
        return zero, (zero - 1 if kind == FLOW else zero)
    a, n = torch.sqrt(t), torch.sqrt(1 - t)
    return (-0.5 / (a * t), 0.5 / (a * t * n)) if kind == EPS else (0.5 / a, 0.5 / n)


def step_slopes(kind: int, t: Tensor, s: Tensor, eta: float, reclip: bool) -> tuple[Numbers, Numbers]:
    """d(d0, d1, d2, sigma) / dt and / ds."""
    zero = torch.zeros_like(s * t)
    if kind == FLOW:
        return (zero, zero, zero - 1, zero), (zero, zero, zero + 1, zero)
    a, n = torch.sqrt(t), torch.sqrt(1 - t)
    e0, e1, e2 = eps_numbers(kind, t, reclip)
    by_n, by_a = 0.5 / n**3, -0.5 / (a * n**3)  # slopes of 1 / n and of -a / n
    f0, f1, f2 = (by_n, 0, by_a) if reclip else ((0, 0, 0), (by_n, by_a, 0), (-0.5 / n, 0.5 / a, 0))[kind]
    var = variance(t, s, eta)
    q = torch.sqrt((1 - s - var).clamp(min=0))
    var_t = -(eta**2) * (1 - s) ** 2 / (s * (1 - t) ** 2)
    var_s = eta**2 / (1 - t) * ((1 - s) * t / s**2 - (1 - t / s))
    q_t, q_s = -0.5 * var_t / q, -0.5 * (1 + var_s) / q
    sigma_t, sigma_s = (0.5 * v / torch.sqrt(var) if eta else zero for v in (var_t, var_s))
    if not eta:
        q_t = zero
    by_t = (q_t * e2 + q * f2, q_t * e0 + q * f0, q_t * e1 + q * f1, sigma_t)
    return by_t, (0.5 / torch.sqrt(s) + q_s * e2, q_s * e0, q_s * e1, sigma_s)
