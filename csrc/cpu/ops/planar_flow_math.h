// The scalar functions of a planar layer on vectors of rows: ordkernels/reference/planar_flow.py is the definition.
#pragma once
#include "cpu/ops/planar_flow_args.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {

// What a layer makes of w.u and |w|^2: uhat = u + c w, s = w.uhat, x the softplus argument, sp = softplus(x), slope =
// ds / d(w.u).
template <class V>
struct LayerTerms {
  V c, s, x, sp, slope, n2;
};

template <class V>
constexpr float kShift = 0.541324855f;  // ln(e - 1)
template <>
constexpr double kShift<vd> = 0.5413248546129181;

constexpr float kLarge = 64;  // from there on softplus(x) is x to the last bit, in fp64 too

template <class V>
constexpr float kRise = 0.632120559f;  // m'(0) = 1 - 1 / e of the smooth m
template <>
constexpr double kRise<vd> = 0.6321205588285577;

// The smooth m(x) and m(x) - x where |x| < 1, without the cancellation of softplus(x + ln(e - 1)) - 1:
// m(x) = log1p((1 - 1/e) expm1(x)), m(x) - x = log1p(expm1(-x) / e).
template <class V>
ORD_INLINE void smooth_near_zero(V x, V& m, V& rest) {
  const auto near = absolute(x) < 1.0f;
  if (!any(near)) {
    return;
  }
  V e, em1;
  exp_neg(x, e, em1);
  const auto negative = x < 0.0f;
  const V weight = negative ? (V){} + kRise<V> : (V){} + (1 - kRise<V>);
  const V y = log1p_v(weight * em1);
  m = near ? (negative ? y : x + y) : m;
  rest = near ? (negative ? y - x : y) : rest;
}

template <class V>
ORD_INLINE LayerTerms<V> layer_terms(V wu, V ww, int mode) {
  LayerTerms<V> l;
  const V one = (V){} + 1.0f;
  if (mode == 0) {
    return {(V){}, wu, wu, (V){}, one, one};
  }
  const auto live = ww > 0.0f;  // w = 0: no correction and no gradient of it
  l.x = mode == 2 ? wu + kShift<V> : wu;
  softplus_sigmoid(l.x, l.sp, l.slope);
  V m = l.sp - 1.0f;
  // Of large w.u it is softplus(-x) + shift - 1, with a softplus of 0: neither cancellation nor inf - inf.
  V rest = wu > kLarge ? (V){} + ((mode == 2 ? kShift<V> : 0) - 1) : m - wu;
  if (mode == 2) {
    smooth_near_zero(wu, m, rest);
  }
  rest += 0.0f * ww;  // NaN for an infinite w
  l.n2 = live ? ww : one;
  l.c = live ? rest / l.n2 : (V){};
  l.s = (live ? m : wu) + 0.0f * rest;  // w.uhat is NaN where uhat is
  l.slope = live ? l.slope : one;
  return l;
}

template <class V>
constexpr float kTinyDet = 1e-30f;
template <>
constexpr double kTinyDet<vd> = 1e-290;

// The determinant: 1 + h s near 1 (`correction` then holds what the rounding lost), tanh^2 + sech^2 softplus(x) where
// that cancels.
template <class V>
ORD_INLINE V determinant(V t, V h, const LayerTerms<V>& l, int mode, V& correction) {
  const V v = h * l.s, u = v + 1.0f;
  correction = log1p_correction(v, u);
  if (mode == 0) {
    return u;
  }
  const auto near = v > -0.5f;
  correction = near ? correction : (V){};
  return near | (v != v) ? u : t * t + h * l.sp;
}

// log(tanh^2 + softplus(x)) where the determinant underflows: there sech^2 = 1 and log softplus(x) = x.
ORD_INLINE double tiny_log_det(double t, double x) {
  if (t == 0) {
    return x;
  }
  const double y = 2 * __builtin_log(__builtin_fabs(t));
  return (y > x ? y : x) + __builtin_log1p(__builtin_exp(-__builtin_fabs(y - x)));
}

template <class V>
ORD_INLINE V log_abs_det(V t, V h, const LayerTerms<V>& l, int mode) {
  V correction;
  const V det = determinant(t, h, l, mode, correction);
  V r = log_plus(absolute(det), correction);
  if (mode == 0) {
    return r;
  }
  const auto tiny = det < kTinyDet<V>;
  if (any(tiny)) {
    for (int i = 0; i < kSize<V>; ++i) {
      if (tiny[i]) {
        r[i] = tiny_log_det(t[i], l.x[i]);
      }
    }
  }
  return r;
}

// d log_det / d a, d log_det / d(w.u), 1 / |det|.
template <class V>
ORD_INLINE void log_det_slopes(V t, V h, const LayerTerms<V>& l, int mode, V& by_a, V& by_x, V& inverse) {
  V correction;
  const V det = determinant(t, h, l, mode, correction);
  by_a = -2.0f * t * (h * l.s) / det;
  by_x = h * l.slope / det;
  inverse = 1.0f / absolute(det);
  if (mode == 0) {
    return;
  }
  const auto tiny = det < kTinyDet<V>;
  if (any(tiny)) {
    for (int i = 0; i < kSize<V>; ++i) {
      if (!tiny[i]) {
        continue;
      }
      const double ld = tiny_log_det(t[i], l.x[i]), at = __builtin_fabs((double)t[i]);
      by_a[i] = at == 0 ? 0 : __builtin_copysign(2 * __builtin_exp(__builtin_log(at) - ld), (double)t[i]);
      by_x[i] = __builtin_exp(l.x[i] - ld);
      inverse[i] = __builtin_exp(-ld);
    }
  }
}

// The a with a + s tanh a = r, s >= -1, of n rows, in place of r. Odd in r, so for p = |r|, where Newton runs
// monotonically to the root: from the left for s > 0 (concave; max(p / (1 + s), p - s) lies left), from the right for s
// < 0 (convex; a - tanh a >= a^3 / 5 up to 1 bounds the root). Lanes stop by themselves, so that a row does not depend
// on its neighbours.
template <class T>
ORD_INLINE void solve_layers(T* r, const T* s, const T* sp, int n) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  constexpr T eps = sizeof(T) == 8 ? 2.2e-16 : 1.2e-7f;
  alignas(64) T root[kFlowRows];
  Ints<V> running[kFlowRows / W] = {};
  for (int i = 0; i < n; i += W) {
    const V p = absolute(load(r + i)), sv = load(s + i), zero = {};
    const auto concave = sv > 0.0f;
    const V q = concave ? zero : absolute(sv);
    const V cubic = cbrt_about(5.0f * p / (q > 1e-30f ? q : zero + 1e-30f));
    const V left = p / (sv + 1.0f) > p - sv ? p / (sv + 1.0f) : p - sv;
    const V room = 1.0f - q > 1e-30f ? 1.0f - q : zero + 1e-30f;
    V right = p + q < p / room ? p + q : p / room;
    right = cubic <= 1.0f && cubic < right ? cubic : right;
    right = concave ? left : right;
    store(root + i, sv < __builtin_inff() ? right : zero + __builtin_nanf(""));  // no root where s is infinite or NaN
    running[i / W] = p == p;
  }
  for (int step = 0; step < 40; ++step) {
    Ints<V> left = {};
    for (int i = 0; i < n; i += W) {
      const V p = absolute(load(r + i)), sv = load(s + i), x = load(root + i);
      V t, h;
      tanh_sech2(x, t, h);
      const V st = sv * t, f = x + st - p;
      const V slope = t * t + h * (sv > -0.5f ? sv + 1.0f : load(sp + i));
      const V next = x - f / slope;
      // The step from where f is no more than rounding error is the last.
      const auto moving = running[i / W] & (slope > 1e-30f) & (f == f);
      store(root + i, moving ? (next > 0.0f ? next : V{}) : x);
      left |= running[i / W] = moving & (absolute(f) > 4 * eps * (x + absolute(st) + p));
    }
    if (!any(left)) {
      break;
    }
  }
  for (int i = 0; i < n; i += W) {
    store(r + i, with_sign(load(root + i), load(r + i)));
  }
}

}  // namespace ORD_ISA
