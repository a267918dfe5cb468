"""One reverse step in plain torch: the definition of ``reverse_step``, and of ``flow_step``."""

from torch import Tensor

from ._common import compute_dtype, empty_unless
from ._diffusion import estimate_x0, per_row, step_backward, step_coefficients, step_noise, to_rows


def reverse_step(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x_t, output [B,D] | [B,K,D] -> x_s, x0 like x_t."""
    dtype = compute_dtype(x_t)
    t, s = per_row(alpha_bar_t, a_t, x_t), per_row(alpha_bar_s, a_s, x_t)
    x0 = estimate_x0(x_t, output, t, kind, clip)
    d0, d1, d2, sigma = to_rows(step_coefficients(kind, t, s, eta, reclip), x_t)
    x_s = d0 * x0 + d1 * x_t.to(dtype) + d2 * output.to(dtype)
    xi = step_noise(x_t, noise, row_ids, random, seed, step)
    if xi is not None:
        x_s = x_s + sigma * xi.to(dtype)
    return x_s.to(x_t.dtype), x0.to(x_t.dtype, copy=True)


def reverse_step_backward(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    g_xs: Tensor | None, g_x0: Tensor | None,
    a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int, grad_mask: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x_t, output and noise, and of c0, c1, d0, d1, d2, sigma per row; empty where not asked for."""
    t, s = per_row(alpha_bar_t, a_t, x_t), per_row(alpha_bar_s, a_s, x_t)
    coefficients = step_coefficients(kind, t, s, eta, reclip)
    xi = step_noise(x_t, noise, row_ids, random and bool(grad_mask & 12), seed, step)
    gx, go, gn, dots = step_backward(x_t, output, t, coefficients, xi, g_xs, g_x0, kind, clip)
    return (
        empty_unless(grad_mask & 1, gx),
        empty_unless(grad_mask & 2, go),
        empty_unless(grad_mask & 16, gn),
        empty_unless(grad_mask & 12, dots),
    )
