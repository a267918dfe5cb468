"""A guided step of the posterior in plain torch: the definition of ``guided_posterior_step``.

``f = f_un + gamma_cp (f_cp - f_un) + gamma_tf (f_tf - f_un)``, ``x_s = d0 f + d1 x_t + sigma noise`` with three coefficients per row,
computed in fp64. A branch whose gamma is 0 is not read, nor is noise where sigma is 0.
"""

import torch
from torch import Tensor

from ._common import compute_dtype, empty_unless
from ._diffusion import Coefficients, per_row, step_noise, to_rows


def posterior_coefficients(t: Tensor, s: Tensor, beta: bool) -> Coefficients:
    """d0, d1, sigma."""
    t = _below_1(t, s)
    share, left = (s - t) / s, (1 - s) / (1 - t)  # share: 1 - t / s, the beta of a step from s to t
    d0, d1 = torch.sqrt(s) * (share / (1 - t)), torch.sqrt(t / s) * left
    variance = torch.where(s == 1, 1.0, share if beta else share * left)
    return d0, d1, torch.where(s == 1, 0.0, torch.sqrt(variance))


def posterior_slopes(t: Tensor, s: Tensor, beta: bool) -> tuple[Coefficients, Coefficients]:
    """d(d0, d1, sigma) / dt and / ds."""
    t = _below_1(t, s)
    n, a, b = 1 - t, torch.sqrt(t), torch.sqrt(s)
    var = (s - t) / s if beta else (s - t) * (1 - s) / (s * n)
    var_t = -1 / s + 0 * t if beta else -((1 - s) ** 2) / (s * n**2)
    var_s = t / s**2 if beta else (t * (1 - s) / s**2 - (s - t) / s) / n
    by_t, by_s = (torch.where((s == 1) | (var == 0), 0.0, 0.5 * v / torch.sqrt(var)) for v in (var_t, var_s))
    return (
        (-(1 - s) / (b * n**2), (1 - s) * (1 + t) / (2 * a * b * n**2), by_t),
        ((s + t) / (2 * s * b * n), -a * (1 + s) / (2 * s * b * n), by_s),
    )


def _below_1(t: Tensor, s: Tensor) -> Tensor:
    """From t = 1 to s = 1, x_s is the combined estimate, as from any other t."""
    return torch.where((t == 1) & (s == 1), 0.5, t)


def combine(f_un: Tensor, f_cp: Tensor, f_tf: Tensor, gamma_cp: float, gamma_tf: float) -> Tensor:
    f = f_un
    if gamma_cp:
        f = f + gamma_cp * (f_cp - f_un)
    return f + gamma_tf * (f_tf - f_un) if gamma_tf else f


def guided_posterior_step(
    x_t: Tensor, f_un: Tensor, f_cp: Tensor, f_tf: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None,
    row_ids: Tensor | None, a_t: float, a_s: float, gamma_cp: float, gamma_tf: float, beta: bool, random: bool, seed: int, step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x_t, f_un, f_cp, f_tf [B,D] | [B,K,D] -> x_s, f_hat like x_t."""
    dtype = compute_dtype(x_t)
    f = combine(f_un.to(dtype), f_cp.to(dtype), f_tf.to(dtype), gamma_cp, gamma_tf)
    t, s = per_row(alpha_bar_t, a_t, x_t), per_row(alpha_bar_s, a_s, x_t)
    d0, d1, sigma = to_rows(posterior_coefficients(t, s, beta), x_t)
    x_s = d0 * f + d1 * x_t.to(dtype)
    xi = step_noise(x_t, noise, row_ids, random, seed, step)
    if xi is not None:
        x_s = x_s + torch.where(sigma == 0, 0.0, sigma * xi.to(dtype))
    return x_s.to(x_t.dtype), f.to(x_t.dtype, copy=True)


def guided_posterior_step_backward(
    x_t: Tensor, f_un: Tensor, f_cp: Tensor, f_tf: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None,
    row_ids: Tensor | None, g_xs: Tensor | None, g_f: Tensor | None,
    a_t: float, a_s: float, gamma_cp: float, gamma_tf: float, beta: bool, random: bool, seed: int, step: int, grad_mask: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x_t, f_un, f_cp, f_tf and noise, and of d0, d1, sigma per row [...,3]; empty where not asked for."""
    dtype = compute_dtype(x_t)
    x = x_t.to(dtype)
    t, s = per_row(alpha_bar_t, a_t, x_t), per_row(alpha_bar_s, a_s, x_t)
    d0, d1, sigma = to_rows(posterior_coefficients(t, s, beta), x_t)
    g, h = (torch.zeros_like(x) if t is None else t.to(dtype) for t in (g_xs, g_f))
    h = h + d0 * g
    f = combine(f_un.to(dtype), f_cp.to(dtype), f_tf.to(dtype), gamma_cp, gamma_tf)
    xi = step_noise(x_t, noise, row_ids, random and bool(grad_mask & 48), seed, step)
    n = torch.zeros_like(x) if xi is None else torch.where(sigma == 0, 0.0, xi.to(dtype))
    dots = torch.stack([(g * y).sum(-1) for y in (f, x, n)], -1)
    g_cp, g_tf = (gamma * h if gamma else torch.zeros_like(h) for gamma in (gamma_cp, gamma_tf))
    g_un, g_noise = (1 - gamma_cp - gamma_tf) * h, torch.where(sigma == 0, 0.0, sigma * g)
    grads = ((d1 * g, 1), (g_un, 2), (g_cp, 4), (g_tf, 8), (g_noise, 64))
    gx, gu, gc, gt, gn = (empty_unless(grad_mask & bit, y.to(x_t.dtype)) for y, bit in grads)
    return gx, gu, gc, gt, gn, empty_unless(grad_mask & 48, dots)
