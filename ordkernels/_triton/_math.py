"""Scalar functions of the Triton kernels: accurate in fp32 and fp64, NaN-safe, from exp and log alone.

No libdevice: its functions cannot run in Triton's interpreter. ``x.dtype`` picks the number of terms at compile time.
"""

from struct import Struct

import triton
import triton.language as tl

UNCONSTRAINED = tl.constexpr(0)
SMOOTH = tl.constexpr(2)  # 1, constrained, is what remains
SMOOTH_SHIFT = tl.constexpr(0.5413248546129181)  # ln(e - 1)
INVERSE_E = tl.constexpr(0.36787944117144233)
_FP64, _INT64 = Struct("<d"), Struct("<q")


def number_bits(x: float) -> int:
    """A number as a kernel takes it: Triton passes floats in fp32, and compiles a kernel anew for each value of a constant."""
    bits: int = _INT64.unpack(_FP64.pack(x))[0]
    return bits


@triton.jit
def number(bits):
    """The fp64 number of `number_bits`."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def tanh_sech2(x):
    """(tanh x, 1 - tanh^2 x) from one exp. Near 0 Lambert's continued fraction replaces 1 - e, which cancels there."""
    e = tl.exp(-2.0 * tl.abs(x))
    y = x * x
    if x.dtype == tl.float64:
        near = tl.abs(x) < 0.3  # next term of the fraction: 2e-19
        num = x * (135135.0 + y * (17325.0 + y * (378.0 + y)))
        den = 135135.0 + y * (62370.0 + y * (3150.0 + y * 28.0))
    else:
        near = tl.abs(x) < 0.5  # 1e-10
        num = x * (945.0 + y * (105.0 + y))
        den = 945.0 + y * (420.0 + y * 15.0)
    far = tl.where(x < 0, e - 1.0, 1.0 - e)
    r = 1.0 / (1.0 + e)
    return tl.where(near, num, far) / tl.where(near, den, 1.0 + e), 4.0 * e * r * r


@triton.jit
def _log(v, w):
    """log(1 + v) where w = 1 + v, accurate in v where |v| is small and in w elsewhere."""
    near = tl.abs(v) < 0.25
    f = tl.where(near, v, 0.0) / (2.0 + tl.where(near, v, 0.0))  # log(1 + v) = 2 atanh f, |f| <= 1/7
    y = f * f
    if v.dtype == tl.float64:
        p = 1.0 / 19 + y * (1.0 / 21)
        p = 1.0 / 13 + y * (1.0 / 15 + y * (1.0 / 17 + y * p))
        p = 1.0 / 7 + y * (1.0 / 9 + y * (1.0 / 11 + y * p))
    else:
        p = 1.0 / 7 + y * (1.0 / 9 + y * (1.0 / 11))
    p = 1.0 / 3 + y * (1.0 / 5 + y * p)
    return tl.where(near, 2.0 * f + 2.0 * f * y * p, tl.log(w))


@triton.jit
def log1p(v):
    return _log(v, 1.0 + v)


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def softplus(x):
    return tl.where(x > 0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def _expm1_negative(x):
    """expm1(-x) = -2 t / (1 + t) with t = tanh(x / 2), for 0 <= x < 1."""
    t, _h = tanh_sech2(0.5 * x)
    return -2.0 * t / (1.0 + t)


@triton.jit
def _inverse_scale(size):
    """1 / size to a power of 2, which rounds nothing; 0 for infinity and NaN. size is normal."""
    if size.dtype == tl.float64:
        power = (size.to(tl.int64, bitcast=True) & 0x7FF0000000000000).to(tl.float64, bitcast=True)
        largest = 8.98846567431158e307
    else:
        power = (size.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        largest = 8.507059173023462e37
    return 1.0 / tl.where((power > largest) & (power < float("inf")), largest, power)  # the inverse of more is subnormal


@triton.jit
def layer_terms(u, w, MODE: tl.constexpr):
    """From the rows of u and w: (c, s, x, sp, n2, slope, scale).

    uhat = u + c (scale w), s = w.uhat, x the softplus argument, sp = softplus(x), slope = ds/d(w.u), n2 = |scale w|^2 with
    scale about 1 / max |w|: neither |w|^2 nor the factor of w leaves the dtype's range.
    """
    wu = tl.sum(w * u, 1)
    if MODE == UNCONSTRAINED:
        one = tl.zeros_like(wu) + 1.0
        return tl.zeros_like(wu), wu, wu, one, one, one, one
    size = tl.max(tl.abs(w), 1)
    has_w = ~(size < (1e-300 if w.dtype == tl.float64 else 1.2e-38))  # w = 0: no correction and no gradient of it, uhat = u
    scale = _inverse_scale(tl.where(has_w, size, 1.0))
    unit = w * scale[:, None]
    n2 = tl.where(has_w, tl.sum(unit * unit, 1), 1.0)
    shift = SMOOTH_SHIFT if MODE == SMOOTH else 0.0
    x = wu + shift
    e = tl.exp(-tl.abs(x))
    soft = log1p(e)
    sp = tl.where(x > 0, x, 0.0) + soft
    m, rest = sp - 1.0, tl.where(x < 0, -x, 0.0) + soft + (shift - 1.0)  # m(w.u) - w.u = softplus(-x) + shift - 1
    if MODE == SMOOTH:  # near 0 both cancel: m(x) = log1p((1 - 1/e) expm1(x)), m(x) - x = log1p(expm1(-x) / e)
        near = tl.abs(wu) < 1.0
        y = log1p(tl.where(wu < 0, 1.0 - INVERSE_E, INVERSE_E) * _expm1_negative(tl.where(near, tl.abs(wu), 0.0)))
        m = tl.where(near, tl.where(wu < 0, y, wu + y), m)
        rest = tl.where(near, tl.where(wu < 0, y - wu, y), rest)
    c = tl.where(has_w, rest / n2 * scale, 0.0)
    slope = tl.where(has_w, tl.where(x < 0, e, 1.0) / (1.0 + e), 1.0)
    s = tl.where((c == c) & (wu > -float("inf")), tl.where(has_w, m, wu), float("nan"))  # w.uhat is NaN where uhat is
    return c, s, x, sp, n2, slope, scale


@triton.jit
def log_abs_det(t, h, s, x, sp, MODE: tl.constexpr):
    """log |1 + h s|, t = tanh a, h = sech^2 a. Constrained: log(t^2 + h sp) > -inf, as logaddexp(2 log |t|, x) where that underflows."""
    v = h * s
    near = (v > -0.5) | (v != v)
    if MODE == UNCONSTRAINED:
        det = tl.abs(1.0 + v)
        return _log(tl.where(near, v, -1.0), det)
    det = tl.where(near, 1.0 + v, t * t + h * sp)
    tiny = det < (1e-290 if t.dtype == tl.float64 else 1e-30)  # here tanh a = a, sech^2 a = 1 and log softplus(x) = x
    lt = 2.0 * tl.log(tl.where(tiny, tl.abs(t), 1.0))
    lx = tl.where(tiny, x + tl.zeros_like(lt), 0.0)
    gap = tl.exp(-tl.abs(lt - lx))
    low = _log(tl.where(tiny, gap, tl.where(near, v, -1.0)), tl.where(tiny, 1.0 + gap, det))
    return low + tl.where(tiny, tl.where(lt > lx, lt, lx), 0.0)


@triton.jit
def log_det_slopes(t, h, s, x, sp, slope, MODE: tl.constexpr):
    """(d log_det / d a, d log_det / d(w.u), 1 / |det|)."""
    v = h * s
    if MODE == UNCONSTRAINED:
        inv = 1.0 / (1.0 + v)
        return -2.0 * t * v * inv, h * inv, tl.abs(inv)
    det = tl.where((v > -0.5) | (v != v), 1.0 + v, t * t + h * sp)
    tiny = det < (1e-290 if t.dtype == tl.float64 else 1e-30)
    inv = 1.0 / tl.where(tiny, 1.0, det)
    lt = 2.0 * tl.log(tl.where(tiny, tl.abs(t), 1.0))
    lx = tl.where(tiny, x + tl.zeros_like(lt), 0.0)
    share = sigmoid(lt - lx)  # t^2 / (t^2 + e^x)
    zero = t == 0
    by_a = tl.where(tiny, tl.where(zero, 0.0, 2.0 * share / tl.where(zero, 1.0, t)), -2.0 * t * v * inv)
    by_x = tl.where(tiny, sigmoid(lx - lt), h * slope * inv)
    top = tl.where(lt > lx, lt, lx)
    return by_a, by_x, tl.where(tiny, tl.exp(-top) / (1.0 + tl.exp(-tl.abs(lt - lx))), inv)


@triton.jit
def layer_gradients(u, w, c, n2, slope, scale, pulled, gx, gaz):
    """(gu, gw): pulled is the gradient of uhat = u + c (scale w), gx that of w.u through the log-det, gaz = sum_n ga z."""
    unit = w * scale[:, None]
    gc = tl.sum(pulled * unit, 1)
    gx = (gx + gc * (slope - 1.0) / n2 * scale)[:, None]
    return pulled + gx * w, gaz + (c[:, None] * pulled - (2.0 * gc * c / n2)[:, None] * unit) * scale[:, None] + gx * u


@triton.jit
def _newton(a, p, s):
    t, h = tanh_sech2(a)
    slope = t * t + (1.0 + s) * h
    flat = slope <= 1e-30
    return a - tl.where(flat, 0.0, a + s * t - p) / tl.where(flat, 1.0, slope)


@triton.jit
def solve_layer(r, s):
    """The a with a + s tanh a = r, s >= -1: from a bound on its side, Newton runs monotonically.

    Four steps at a time, at most 28, then two more.
    """
    eps = 1e-15 if r.dtype == tl.float64 else 3e-7
    infinite, given = (tl.abs(r) == float("inf")) & (tl.abs(s) < float("inf")), r  # then a is r
    r = tl.where(infinite, 0.0, r)
    p = tl.abs(r)
    s = s + tl.zeros_like(p)
    up = tl.where(s > 0, s, 0.0)
    q = tl.where(s < 0, -s, 0.0)
    below = tl.where(p / (1.0 + up) > p - s, p / (1.0 + up), p - s)
    cubic = tl.exp(tl.log(5.0 * p / tl.where(q > 1e-30, q, 1e-30)) * (1.0 / 3.0))  # a - tanh a >= a^3 / 5 up to 1
    gap = tl.where(1.0 - q > 1e-30, 1.0 - q, 1e-30)
    above = tl.where(p + q < p / gap, p + q, p / gap)
    above = tl.where((cubic <= 1.0) & (cubic < above), cubic, above)
    a = tl.where(s > 0, below, above)
    rounds = 0
    moving = 1
    while (moving > 0) & (rounds < 7):
        for _ in tl.static_range(3):
            a = _newton(a, p, s)
            a = tl.where(a < 0, 0.0, a)
        last = a
        a = _newton(a, p, s)
        a = tl.where(a < 0, 0.0, a)
        moving = tl.max(
            tl.ravel(tl.where(tl.abs(a - last) > eps * a, 1, 0)), 0
        )  # NaN compares false: its row does not keep the others iterating
        rounds += 1
    a = tl.where(r < 0, -a, a)
    return tl.where(infinite, given, _newton(_newton(a, r, s), r, s))
