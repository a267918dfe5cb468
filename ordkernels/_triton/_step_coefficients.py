"""The six numbers of a reverse step, from its levels, on the device and on the host:
x0 = clip(c0 x + c1 output), x_s = d0 x0 + d1 x + d2 output + sigma noise.
"""

import math

import triton
import triton.language as tl

from ._diffusion import load_level
from ._math import number

EPS = tl.constexpr(0)
X0 = tl.constexpr(1)
V = tl.constexpr(2)
FLOW = tl.constexpr(3)


@triton.jit
def _coefficients(t, s, eta, HAS_ETA: tl.constexpr, KIND: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr):
    """c0, c1, d0, d1, d2, sigma; WHOLE: more than the first two are needed."""
    zero, one = t * 0.0, t * 0.0 + 1.0
    d0, d1, d2, sigma = zero, zero, zero, zero
    a, n = tl.sqrt(t), tl.sqrt(1.0 - t)
    e2 = zero  # eps = e0 x + e1 output + e2 x0
    if KIND == FLOW:
        c0, c1, e0, e1 = one, -t, zero, zero
        d1, d2 = one, s - t
    elif KIND == EPS:
        c0, c1, e0, e1 = one / a, -n / a, zero, one
    elif KIND == X0:
        c0, c1, e0, e1 = zero, one, one / n, -a / n
    else:
        c0, c1, e0, e1 = a, -n, n, a
    if WHOLE and KIND != FLOW:
        if RECLIP:
            e0, e1, e2 = one / n, zero, -a / n
        var = zero
        if HAS_ETA:
            var = (number(eta) * number(eta)) * ((1.0 - s) / (1.0 - t)) * (1.0 - t / s)
        remaining = 1.0 - s - var
        q = tl.sqrt(tl.where(remaining < 0, 0.0, remaining))
        done = (s == 1.0) & (t == t)  # x_s is the estimate of x0, also where t = 1 and there is no noise to tell epsilon by
        d0, d1 = tl.where(done, 1.0, tl.sqrt(s) + q * e2), tl.where(done, 0.0, q * e0)
        d2, sigma = tl.where(done, 0.0, q * e1), tl.where(done, 0.0, tl.sqrt(var))
    return c0, c1, d0, d1, d2, sigma


@triton.jit
def row_coefficients(
    t, s, t_b, t_k, s_b, s_k, c0, c1, d0, d1, d2, sigma, eta, b, k, row_mask,
    PER_ROW: tl.constexpr, HAS_ETA: tl.constexpr, KIND: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The six as [BLOCK_R, 1]: of each row's levels, or those of the host for all rows."""
    if PER_ROW:
        at = load_level(t, b, k, t_b, t_k, row_mask)
        to = load_level(s, b, k, s_b, s_k, row_mask)
        c0, c1, d0, d1, d2, sigma = _coefficients(at, to, eta, HAS_ETA, KIND, RECLIP, WHOLE)
        c0, c1, d0 = c0[:, None].to(ACC), c1[:, None].to(ACC), d0[:, None].to(ACC)
        d1, d2, sigma = d1[:, None].to(ACC), d2[:, None].to(ACC), sigma[:, None].to(ACC)
    else:  # and one return for both: all of a function's returns must have one type
        zero = (b[:, None] * 0).to(ACC)
        c0, c1, d0, d1, d2, sigma = zero + c0, zero + c1, zero + d0, zero + d1, zero + d2, zero + sigma
    return c0, c1, d0, d1, d2, sigma


def host_coefficients(kind: int, t: float, s: float, eta: float, reclip: bool, whole: bool) -> tuple[float, ...]:
    """`_coefficients` of one pair of levels."""
    if kind == FLOW.value:
        return 1.0, -t, 0.0, 1.0, s - t, 0.0
    a, n = math.sqrt(t), math.sqrt(1 - t)
    r = 1 / n if n else math.inf
    c0, c1 = {EPS.value: (1 / a, -n / a), X0.value: (0.0, 1.0), V.value: (a, -n)}[kind]
    if not whole:
        return c0, c1, 0.0, 0.0, 0.0, 0.0
    if s == 1 and t == t:
        return c0, c1, 1.0, 0.0, 0.0, 0.0
    e = {EPS.value: (0.0, 1.0, 0.0), X0.value: (r, -a * r, 0.0), V.value: (n, a, 0.0)}[kind]
    e0, e1, e2 = (r, 0.0, -a * r) if reclip else e
    var = eta**2 * ((1 - s) / (1 - t)) * (1 - t / s) if eta and t < 1 else (math.nan if eta else 0.0)
    remaining = 1 - s - var
    q = math.sqrt(remaining) if remaining > 0 else (remaining if remaining != remaining else 0.0)
    return c0, c1, math.sqrt(s) + q * e2, q * e0, q * e1, math.sqrt(var) if var >= 0 or var != var else math.nan
