"""Layers of planar flows in plain torch.

One layer: ``a = w.z + b``, ``z <- z + uhat tanh a``, ``logdet += log |1 + sech^2(a) w.uhat|``.
Constrained: ``uhat = u + (m(w.u) - w.u) w / |w|^2`` with ``m(x) = softplus(x + shift) - 1 > -1``, so the layer is a bijection.

Everything below works on groups: ``z [G, N, D]``, ``u, w [G, K, D]``, ``b [G, K]``: N rows share one set of parameters.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ._common import compute_dtype

UNCONSTRAINED, CONSTRAINED, SMOOTH = 0, 1, 2
SMOOTH_SHIFT = math.log(math.e - 1)  # softplus of it is 1: m(0) = 0
LARGE = 64.0  # from there on softplus(x) is x to the last bit, in fp64 too


def to_groups(z: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
    """Public shapes -> groups: z [B,D] or [B,N,D]; parameters [B,K,...] per row or [K,...] shared."""
    dtype = compute_dtype(z)
    if params[0].dim() == 2:  # shared: one group that holds every row
        grouped = (z.reshape(1, -1, z.shape[-1]), *(p.unsqueeze(0) for p in params))
    else:
        grouped = (z if z.dim() == 3 else z.unsqueeze(1), *params)
    return tuple(t.to(dtype) for t in grouped)


def layer_terms(u: Tensor, w: Tensor, mode: int) -> tuple[Tensor, ...]:
    """(uhat [G,D], c, s, x, size, slope), each [G,1] but uhat: s = w.uhat, x the softplus argument, slope = ds/d(w.u).

    ``uhat = u + c w / size`` with size = max |w|, 0 -> 1: neither |w|^2 nor the correction's factor leaves the dtype's range.
    """
    x = (w * u).sum(-1, keepdim=True)
    if mode == UNCONSTRAINED:
        one = torch.ones_like(x)
        return u + 0 * w, torch.zeros_like(x), x, x, one, one  # NaN for an infinite w, as in the other modes
    size = w.detach().abs().amax(-1, keepdim=True)  # any positive size gives the same uhat: it has no gradient
    live = size > 0  # w = 0: no correction and no gradient of it, uhat = u
    size = torch.where(live | size.isnan(), size, 1.0)
    n2 = _scaled_norm2(w, size)
    shifted = x + SMOOTH_SHIFT if mode == SMOOTH else x
    m = F.softplus(shifted, threshold=50.0) - 1
    # Of large x it is softplus(-shifted) + shift - 1, with a softplus of 0: neither cancellation nor inf - inf.
    rest = torch.where(x > LARGE, (SMOOTH_SHIFT if mode == SMOOTH else 0.0) - 1, m - torch.where(x > LARGE, 0.0, x))
    if mode == SMOOTH:
        m, rest = _smooth_near_zero(x, m, rest)
    c = torch.where(live | size.isnan(), rest / n2 / size, 0.0)
    s = torch.where(c.isnan() | (x == -math.inf), torch.nan, torch.where(live, m, x))  # w.uhat is NaN where uhat is
    return u + c * (w / size), c, s, shifted, size, torch.where(live, torch.sigmoid(shifted), 1.0)


def _scaled_norm2(w: Tensor, size: Tensor) -> Tensor:
    """``|w / size|^2``, 1 for w = 0."""
    n2 = (w / size).square().sum(-1, keepdim=True)
    return torch.where(n2 == 0, 1.0, n2)


def _smooth_near_zero(x: Tensor, m: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """The smooth m(x) and m(x) - x where |x| < 1, without the cancellation of softplus(x + ln(e - 1)) - 1.

    ``m(x) = log1p((1 - 1/e) expm1(x))``, ``m(x) - x = log1p(expm1(-x) / e)``.
    """
    near, negative = x.abs() < 1, x < 0
    safe = torch.where(near, x, 0.0)
    grown = torch.expm1(torch.where(negative, safe, -safe))
    y = torch.log1p(torch.where(negative, (1 - 1 / math.e) * grown, grown / math.e))
    return torch.where(near, torch.where(negative, y, x + y), m), torch.where(near, torch.where(negative, y - x, y), rest)


def sech2(a: Tensor) -> Tensor:
    """1 - tanh^2 without the cancellation."""
    e = torch.exp(-2 * a.abs())
    return 4 * e / (1 + e) ** 2


def log_abs_det(a: Tensor, s: Tensor, x: Tensor, mode: int) -> Tensor:
    """log |1 + sech^2(a) s|; for a constrained layer as log(tanh^2 a + sech^2(a) softplus(x)), in logs where that underflows."""
    h = sech2(a)
    v = h * s
    near = ~(v <= -0.5)  # also where v is NaN
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
    det = torch.where(~(h * s <= -0.5), 1 + h * s, t * t + h * F.softplus(x, threshold=50.0))
    tiny = det < _tiny(a)
    safe = torch.where(tiny, 1.0, det)
    by_a = torch.where(tiny, 2 * torch.sign(t) * torch.exp(torch.log(t.abs()) - log_det), -2 * t * h * s / safe)
    by_x = torch.where(tiny, torch.exp(x - log_det), h * slope / safe)
    return by_a, by_x


def _tiny(a: Tensor) -> float:
    return 1e-290 if a.dtype == torch.float64 else 1e-30


def layer_gradients(
    u: Tensor, w: Tensor, c: Tensor, size: Tensor, slope: Tensor, pulled: Tensor, gx: Tensor, ga: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(gu, gw [G,D], gb [G]) from the gradients of uhat [G,D], of w.u through the log-det [G,1] and of a [G,N].

    uhat = u + c w / size with c = (m(w.u) - w.u) size / |w|^2; unconstrained and dead layers have c = 0 and slope 1.
    """
    unit = w / size
    n2 = _scaled_norm2(w, size)
    gc = (pulled * unit).sum(-1, keepdim=True)
    gx = gx + gc * (slope - 1) / n2 / size
    gw = torch.einsum("gn,gnd->gd", ga, z) + (c * pulled - 2 * gc * c / n2 * unit) / size
    return pulled + gx * w, gw + gx * u, ga.sum(1)


def collect(
    g: Tensor, grads: list[tuple[Tensor, Tensor, Tensor]], z: Tensor, u: Tensor, w: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gu, gw, gb = (torch.stack(p, 1) for p in zip(*grads, strict=True))
    return (
        g.reshape(z.shape).to(z.dtype, copy=True),
        gu.reshape(u.shape).to(u.dtype),
        gw.reshape(w.shape).to(w.dtype),
        gb.reshape(u.shape[:-1]).to(u.dtype),
    )
