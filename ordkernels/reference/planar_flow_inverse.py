"""The inverse of planar flows in plain torch: the definition of ``planar_flow_inverse``."""

import torch
from torch import Tensor

from ._planar_flow import CONSTRAINED, collect, layer_gradients, layer_terms, log_abs_det, log_det_slopes, sech2, to_groups


def planar_flow_inverse(z_out: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int = CONSTRAINED) -> tuple[Tensor, Tensor, Tensor]:
    """z_in with ``planar_flow(z_in) = z_out``, the forward log_det there, and the a_k: one monotone scalar equation per layer."""
    zg, ug, wg, bg = to_groups(z_out, u, w, b)
    log_det, act = torch.zeros_like(zg[..., 0]), []
    for k in range(ug.shape[1] - 1, -1, -1):
        uhat, _, s, x, *_ = layer_terms(ug[:, k], wg[:, k], mode)
        a = solve_layer((zg * wg[:, k, None]).sum(-1) + bg[:, k, None], s)
        log_det = log_det + log_abs_det(a, s, x, mode)
        zg = zg - uhat[:, None] * torch.tanh(a)[..., None]
        act.append(a)
    return (
        zg.reshape(z_out.shape).to(z_out.dtype, copy=True),
        log_det.reshape(z_out.shape[:-1]),
        torch.stack(act[::-1], -1).reshape(*z_out.shape[:-1], u.shape[-2]),
    )


def planar_flow_inverse_backward(
    z_in: Tensor, act: Tensor, u: Tensor, w: Tensor, gz_in: Tensor, gl: Tensor, mode: int = CONSTRAINED
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z_out, u, w, b by the implicit function theorem, layer after layer from z_in."""
    zg, ug, wg = to_groups(z_in, u, w)
    G, N, _ = zg.shape
    g, ag, gl = gz_in.reshape(zg.shape).to(zg.dtype), act.reshape(G, N, u.shape[-2]), gl.reshape(G, N).to(zg.dtype)
    grads = []
    for k in range(ug.shape[1]):
        uhat, c, s, x, size, slope = layer_terms(ug[:, k], wg[:, k], mode)
        a, wk = ag[..., k], wg[:, k, None]
        t, h = torch.tanh(a), sech2(a)
        log_det = log_abs_det(a, s, x, mode)
        by_a, by_x = log_det_slopes(a, s, x, slope, mode)
        g = g + (gl * by_a)[..., None] * wk
        g = g - wk * (h * (g * uhat[:, None]).sum(-1) * torch.exp(-log_det))[..., None]  # the layer's inverse Jacobian, transposed
        ga = gl * by_a - (g * uhat[:, None]).sum(-1) * h
        pulled = -(t[..., None] * g).sum(1)
        gx = (gl * by_x).sum(1, keepdim=True)
        grads.append(layer_gradients(ug[:, k], wg[:, k], c, size, slope, pulled, gx, ga, zg))
        zg = zg + uhat[:, None] * t[..., None]
    return collect(g, grads, z_in, u, w)


def solve_layer(r: Tensor, s: Tensor, steps: int = 28) -> Tensor:
    """The a with ``a + s tanh a = r``, s >= -1: odd in r, so for r > 0, where Newton runs monotonically to the root.

    For s > 0 the left side is concave and ``max(r / (1 + s), r - s)`` lies left of the root; for s < 0 it is convex, and
    ``a - tanh a >= a^3 / 5`` up to 1 bounds the root from the right. The last two steps carry first and second derivatives.
    """
    infinite = r.isinf() & s.isfinite()  # then a is r
    given, r = r, torch.where(infinite, 0.0, r)
    with torch.no_grad():
        p, q = r.abs(), s.clamp(max=0).abs()
        below = torch.maximum(p / (1 + s.clamp(min=0)), p - s)
        cubic = (5 * p / q.clamp(min=1e-30)) ** (1 / 3)
        above = torch.minimum(torch.minimum(p + q, p / (1 - q).clamp(min=1e-30)), torch.where(cubic <= 1, cubic, torch.inf))
        a = torch.where(s > 0, below, above)
        for _ in range(steps):
            a = _newton(a, p, s).clamp(min=0)
        a = torch.copysign(a, r)
    return torch.where(infinite, given, _newton(_newton(a, r, s), r, s))


def _newton(a: Tensor, r: Tensor, s: Tensor) -> Tensor:
    t = torch.tanh(a)
    f, slope = a + s * t - r, t * t + (1 + s) * sech2(a)
    flat = slope <= 1e-30
    return a - torch.where(flat, 0.0, f) / torch.where(flat, 1.0, slope)
