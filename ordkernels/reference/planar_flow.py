"""Planar flows in plain torch: the definition that every kernel is held to.

One layer: ``a = w.z + b``, ``z <- z + uhat tanh a``, ``logdet += log |1 + sech^2(a) w.uhat|``.
Constrained: ``uhat = u + (m(w.u) - w.u) w / |w|^2`` with ``m(x) = softplus(x + shift) - 1 > -1``, so the layer is a bijection.

Everything below works on groups: ``z [G, N, D]``, ``u, w [G, K, D]``, ``b [G, K]``: N rows share one set of parameters.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

UNCONSTRAINED, CONSTRAINED, SMOOTH = 0, 1, 2
SMOOTH_SHIFT = math.log(math.e - 1)  # softplus of it is 1: m(0) = 0


def compute_dtype(t: Tensor) -> torch.dtype:
    """fp32 for everything up to fp32, fp64 for fp64."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def to_groups(z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
    """Public shapes -> groups: z [B,D] or [B,N,D]; parameters [B,K,...] per row or [K,...] shared."""
    dtype = compute_dtype(z)
    if params[0].dim() == 2:  # shared: one group that holds every row
        grouped = (z.reshape(1, -1, z.shape[-1]), *(p.unsqueeze(0) for p in params))
    else:
        grouped = (z if z.dim() == 3 else z.unsqueeze(1), *params)
    return tuple(t.to(dtype) for t in grouped)


def layer_terms(u: Tensor, w: Tensor, mode: int) -> tuple[Tensor, ...]:
    """(uhat [G,D], c, s, x, n2, slope), each [G,1]: s = w.uhat, x the softplus argument, n2 = |w|^2 with 0 -> 1, slope = ds/d(w.u)."""
    x = (w * u).sum(-1, keepdim=True)
    if mode == UNCONSTRAINED:
        one = torch.ones_like(x)
        return u, torch.zeros_like(x), x, x, one, one
    n2 = (w * w).sum(-1, keepdim=True)
    live = n2 > 0  # w = 0: no correction and no gradient of it, uhat = u
    n2 = torch.where(live, n2, 1.0)
    shifted = x + SMOOTH_SHIFT if mode == SMOOTH else x
    m = F.softplus(shifted, threshold=50.0) - 1
    c = torch.where(live, (m - x) / n2, 0.0)
    return u + c * w, c, torch.where(live, m, x), shifted, n2, torch.where(live, torch.sigmoid(shifted), 1.0)


def sech2(a: Tensor) -> Tensor:
    """1 - tanh^2 without the cancellation."""
    e = torch.exp(-2 * a.abs())
    return 4 * e / (1 + e) ** 2


def log_abs_det(a: Tensor, s: Tensor, x: Tensor, mode: int) -> Tensor:
    """log |1 + sech^2(a) s|; for a constrained layer as log(tanh^2 a + sech^2(a) softplus(x)), in logs where that underflows."""
    h = sech2(a)
    v = h * s
    near = v > -0.5
    mild = torch.log1p(torch.where(near, v, 0.0))
    if mode == UNCONSTRAINED:
        return torch.where(near, mild, torch.log((1 + torch.where(near, 1.0, v)).abs()))
    t = torch.tanh(a)
    det = t * t + h * F.softplus(x, threshold=50.0)
    tiny = det < _tiny(a)
    rest = torch.log(torch.where(near | tiny, 1.0, det))
    lt = 2 * torch.log(torch.where(tiny & (t != 0), t, 1.0).abs())  # here tanh a = a, sech^2 a = 1 and log softplus(x) = x
    low = torch.where(t == 0, x.expand_as(lt), torch.logaddexp(lt, x.expand_as(lt)))
    return torch.where(near, mild, torch.where(tiny, low, rest))


def log_det_slopes(a: Tensor, s: Tensor, x: Tensor, slope: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """(d log_det / d a, d log_det / d(w.u))."""
    t, h = torch.tanh(a), sech2(a)
    if mode == UNCONSTRAINED:
        det = 1 + h * s
        return -2 * t * h * s / det, h / det
    log_det = log_abs_det(a, s, x, mode)
    det = torch.where(h * s > -0.5, 1 + h * s, t * t + h * F.softplus(x, threshold=50.0))
    tiny = det < _tiny(a)
    safe = torch.where(tiny, 1.0, det)
    by_a = torch.where(tiny, 2 * torch.sign(t) * torch.exp(torch.log(t.abs()) - log_det), -2 * t * h * s / safe)
    by_x = torch.where(tiny, torch.exp(x - log_det), h * slope / safe)
    return by_a, by_x


def _tiny(a: Tensor) -> float:
    return 1e-290 if a.dtype == torch.float64 else 1e-30


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int = CONSTRAINED) -> tuple[Tensor, Tensor, Tensor]:
    """z [B,D] | [B,N,D]; u, w [B,K,D] | [K,D]; b [B,K] | [K] -> z_out like z, log_det [B] | [B,N], act [..., K] (the a_k)."""
    zg, ug, wg, bg = to_groups(z, u, w, b)
    log_det, act = torch.zeros_like(zg[..., 0]), []
    for uk, wk, bk in zip(ug.unbind(1), wg.unbind(1), bg.unbind(1), strict=True):
        uhat, _, s, x, *_ = layer_terms(uk, wk, mode)
        a = (zg * wk[:, None]).sum(-1) + bk[:, None]  # [G,N]
        log_det = log_det + log_abs_det(a, s, x, mode)
        zg = zg + uhat[:, None] * torch.tanh(a)[..., None]
        act.append(a)
    return (
        zg.reshape(z.shape).to(z.dtype, copy=True),
        log_det.reshape(z.shape[:-1]),
        torch.stack(act, -1).reshape(*z.shape[:-1], u.shape[-2]),
    )


def planar_flow_backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz_out: Tensor, gl: Tensor, mode: int = CONSTRAINED
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, u, w, b. The states are rebuilt from the input z: walking back from a rounded z_K would cancel."""
    zg, ug, wg = to_groups(z, u, w)
    G, N, _ = zg.shape
    g, ag, gl = gz_out.reshape(zg.shape).to(zg.dtype), act.reshape(G, N, u.shape[-2]), gl.reshape(G, N).to(zg.dtype)
    layers = [layer_terms(uk, wk, mode) for uk, wk in zip(ug.unbind(1), wg.unbind(1), strict=True)]
    states = [zg]
    for k, (uhat, *_) in enumerate(layers[:-1]):
        states.append(states[-1] + uhat[:, None] * torch.tanh(ag[..., k, None]))
    grads = []
    for k in range(len(layers) - 1, -1, -1):
        uhat, c, s, x, n2, slope = layers[k]
        a = ag[..., k]
        by_a, by_x = log_det_slopes(a, s, x, slope, mode)
        ga = (g * uhat[:, None]).sum(-1) * sech2(a) + gl * by_a  # [G,N]
        pulled = (torch.tanh(a)[..., None] * g).sum(1)  # gradient of uhat [G,D]
        gx = (gl * by_x).sum(1, keepdim=True)
        grads.append(_layer_gradients(ug[:, k], wg[:, k], c, n2, slope, pulled, gx, ga, states[k]))
        g = g + ga[..., None] * wg[:, k, None]
    return _collect(g, grads[::-1], z, u, w)


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


def solve_layer(r: Tensor, s: Tensor, steps: int = 28) -> Tensor:
    """The a with ``a + s tanh a = r``, s >= -1: odd in r, so for r > 0, where Newton runs monotonically to the root.

    For s > 0 the left side is concave and ``max(r / (1 + s), r - s)`` lies left of the root; for s < 0 it is convex, and
    ``a - tanh a >= a^3 / 5`` up to 1 bounds the root from the right. The last two steps carry first and second derivatives.
    """
    with torch.no_grad():
        p, q = r.abs(), s.clamp(max=0).abs()
        below = torch.maximum(p / (1 + s.clamp(min=0)), p - s)
        cubic = (5 * p / q.clamp(min=1e-30)) ** (1 / 3)
        above = torch.minimum(torch.minimum(p + q, p / (1 - q).clamp(min=1e-30)), torch.where(cubic <= 1, cubic, torch.inf))
        a = torch.where(s > 0, below, above)
        for _ in range(steps):
            a = _newton(a, p, s).clamp(min=0)
        a = torch.copysign(a, r)
    return _newton(_newton(a, r, s), r, s)


def _newton(a: Tensor, r: Tensor, s: Tensor) -> Tensor:
    t = torch.tanh(a)
    f, slope = a + s * t - r, t * t + (1 + s) * sech2(a)
    flat = slope <= 1e-30
    return a - torch.where(flat, 0.0, f) / torch.where(flat, 1.0, slope)


def planar_flow_inverse_backward(
    z_in: Tensor, act: Tensor, u: Tensor, w: Tensor, gz_in: Tensor, gl: Tensor, mode: int = CONSTRAINED
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z_out, u, w, b by the implicit function theorem, layer after layer from z_in."""
    zg, ug, wg = to_groups(z_in, u, w)
    G, N, _ = zg.shape
    g, ag, gl = gz_in.reshape(zg.shape).to(zg.dtype), act.reshape(G, N, u.shape[-2]), gl.reshape(G, N).to(zg.dtype)
    grads = []
    for k in range(ug.shape[1]):
        uhat, c, s, x, n2, slope = layer_terms(ug[:, k], wg[:, k], mode)
        a, wk = ag[..., k], wg[:, k, None]
        t, h = torch.tanh(a), sech2(a)
        log_det = log_abs_det(a, s, x, mode)
        by_a, by_x = log_det_slopes(a, s, x, slope, mode)
        g = g + (gl * by_a)[..., None] * wk
        g = g - wk * (h * (g * uhat[:, None]).sum(-1) * torch.exp(-log_det))[..., None]  # the layer's inverse Jacobian, transposed
        ga = gl * by_a - (g * uhat[:, None]).sum(-1) * h
        pulled = -(t[..., None] * g).sum(1)
        gx = (gl * by_x).sum(1, keepdim=True)
        grads.append(_layer_gradients(ug[:, k], wg[:, k], c, n2, slope, pulled, gx, ga, zg))
        zg = zg + uhat[:, None] * t[..., None]
    return _collect(g, grads, z_in, u, w)


def conditional_planar_flow(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, mode: int = CONSTRAINED) -> tuple[Tensor, Tensor, Tensor]:
    """planar_flow on ``h @ weight.T + bias`` viewed [B, K, 2D + 1], each layer u (D) | w (D) | b (1)."""
    return planar_flow(z, *_split(z, h, weight, bias), mode)


def conditional_planar_flow_backward(
    z: Tensor, act: Tensor, h: Tensor, weight: Tensor, bias: Tensor, gz_out: Tensor, gl: Tensor, mode: int = CONSTRAINED
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, h, weight, bias."""
    u, w, _ = _split(z, h, weight, bias)
    gz, gu, gw, gb = planar_flow_backward(z, act, u, w, gz_out, gl, mode)
    g = torch.cat([gu, gw, gb[..., None]], -1).flatten(1)  # [B, K (2D + 1)]
    gh, gweight = g @ weight.to(g.dtype), g.T @ h.to(g.dtype)
    return gz, gh.to(h.dtype), gweight.to(weight.dtype), g.sum(0).to(bias.dtype)


def _split(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    D, dtype = z.shape[-1], compute_dtype(z)
    p = F.linear(h.to(dtype), weight.to(dtype), bias.to(dtype)).unflatten(1, (-1, 2 * D + 1))
    u, w, b = p.split([D, D, 1], -1)
    return u, w, b[..., 0]


def _layer_gradients(
    u: Tensor, w: Tensor, c: Tensor, n2: Tensor, slope: Tensor, pulled: Tensor, gx: Tensor, ga: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(gu, gw [G,D], gb [G]) from the gradients of uhat [G,D], of w.u through the log-det [G,1] and of a [G,N].

    uhat = u + c w with c = (m(w.u) - w.u) / |w|^2; unconstrained and dead layers have c = 0 and slope 1.
    """
    gc = (pulled * w).sum(-1, keepdim=True)
    gx = gx + gc * (slope - 1) / n2
    gw = torch.einsum("gn,gnd->gd", ga, z) + c * pulled - 2 * gc * c / n2 * w
    return pulled + gx * w, gw + gx * u, ga.sum(1)


def _collect(
    g: Tensor, grads: list[tuple[Tensor, Tensor, Tensor]], z: Tensor, u: Tensor, w: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gu, gw, gb = (torch.stack(p, 1) for p in zip(*grads, strict=True))
    return (
        g.reshape(z.shape).to(z.dtype, copy=True),
        gu.reshape(u.shape).to(u.dtype),
        gw.reshape(w.shape).to(w.dtype),
        gb.reshape(u.shape[:-1]).to(u.dtype),
    )
