// Branch-free exp, tanh, log and softplus of vectors, without -ffast-math. NaN and infinities go through.
//
// Largest errors in fp32, held by tests/ops/test_vmath.py over all exponents: exp 1.5 ulp, tanh 3, sech^2 6, log 1,
// log1p 1, softplus 3, logistic function 3. fp64 goes through libm, lane by lane.
#pragma once
#include "cpu/simd/lanes.h"
#include "cpu/simd/loads.h"

namespace ORD_ISA {

// ---- fp32, and fp64 by libm, lane by lane

template <class V>
ORD_INLINE V absolute(V x) {
  return (V)((Ints<V>)x & (sizeof(x[0]) == 4 ? 0x7FFFFFFF : 0x7FFFFFFFFFFFFFFF));
}
template <class V>
ORD_INLINE V with_sign(V magnitude, V sign) {
  constexpr auto top = (decltype(Ints<V>{}[0] + 0))(1ull << (8 * sizeof(sign[0]) - 1));
  return (V)((Ints<V>)magnitude | ((Ints<V>)sign & top));
}

// s and m with exp(x) = s (1 + m) for x in [-87, 88]; NaN goes into m.
template <class V>
ORD_INLINE void exp_parts(V x, V& s, V& m) {
  V n = x * 1.44269504f + 12582912.0f;  // rounds to the nearest integer: + 1.5 * 2^23, and off again
  const Ints<V> i = (Ints<V>)n - 0x4B400000;
  n -= 12582912.0f;
  V r = x - n * 0.693145752f;  // ln 2 in two parts
  r = r - n * 1.42860677e-6f;
  V p = r * 1.9875691e-4f + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665795e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  m = p * r * r + r;  // expm1(r)
  s = (V)((i + 127) << 23);
}

// exp(-|x|) and expm1(-|x|); below -87 the truth, under 1.7e-38, is taken as 0.
template <class V>
ORD_INLINE void exp_neg(V x, V& e, V& em1) {
  const V a = -absolute(x);
  const auto under = a < -87.0f;
  V s, m;
  exp_parts(under ? (V){} - 87.0f : a, s, m);
  e = under ? (V){} : s * m + s;
  em1 = under ? (V){} - 1.0f : s * m + (s - 1.0f);
}

// log(u) + c for a small correction c; u normal, 0 (-inf), inf or NaN.
template <class V>
ORD_INLINE V log_plus(V u, V c) {
  const Ints<V> e = ((Ints<V>)u - 0x3F3504F3) >> 23;
  const V m = (V)((Ints<V>)u - e * (1 << 23)) - 1.0f;  // in [sqrt(1/2), sqrt(2)) - 1
  V p = m * 7.0376836e-2f - 1.1514610e-1f;
  p = p * m + 1.1676998e-1f;
  p = p * m - 1.2420141e-1f;
  p = p * m + 1.4249323e-1f;
  p = p * m - 1.6668057e-1f;
  p = p * m + 2.0000714e-1f;
  p = p * m - 2.4999994e-1f;
  p = p * m + 3.3333331e-1f;
  const V m2 = m * m, ef = __builtin_convertvector(e, V);
  V r = p * m2 * m + (ef * -2.12194440e-4f + c);
  r = r - 0.5f * m2;
  r = m + r + ef * 0.693359375f;
  r = u == 0.0f ? (V){} - __builtin_inff() : r;
  return u < __builtin_inff() ? r : u;  // inf and NaN stay
}

template <class V>
ORD_INLINE V cbrt_about(V x) {  // to 0.2 %: a start for Newton
  const V y = (V)((Ints<V>)x / 3 + 709921077);
  return (2.0f * y + x / (y * y)) * 0.33333334f;
}

ORD_INLINE void exp_neg(vd x, vd& e, vd& em1) {
  for (int i = 0; i < kLanes<double>; ++i) {
    e[i] = __builtin_exp(-__builtin_fabs(x[i]));
    em1[i] = __builtin_expm1(-__builtin_fabs(x[i]));
  }
}
ORD_INLINE vd log_plus(vd u, vd c) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) {
    r[i] = __builtin_log(u[i]) + c[i];
  }
  return r;
}
ORD_INLINE vd cbrt_about(vd x) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) {
    r[i] = __builtin_cbrt(x[i]);
  }
  return r;
}

// ---- both

// tanh and 1 - tanh^2, from e = exp(-2 |a|): (1 - e) / (1 + e) and 4 e / (1 + e)^2, neither with cancellation.
template <class V>
ORD_INLINE void tanh_sech2(V a, V& t, V& h) {
  V e, em1;
  exp_neg(a + a, e, em1);
  const V p = em1 + 2.0f;
  t = with_sign(-em1 / p, a);
  h = 4.0f * e / (p * p);
}

// log(1 + v), for v >= -1; with `folded` log |1 + v| for any v.
template <class V>
ORD_INLINE V log1p_correction(V v, V u) {  // u = 1 + v rounded; what the rounding lost, relative to u
  return absolute(v) < 3e7f ? (v - (u - 1.0f)) / u : (V){};
}
template <class V>
ORD_INLINE V log1p_v(V v) {
  const V u = v + 1.0f;
  const V r = log_plus(u, log1p_correction(v, u));
  return u >= 0.0f ? (u == 0.0f ? (V){} - __builtin_inff() : r) : (V){} + __builtin_nanf("");
}

// log(1 + e) for 0 <= e <= 1, or NaN: 2 atanh(e / (2 + e)).
template <class V>
ORD_INLINE V log1p_unit(V e) {
  if constexpr (sizeof(e[0]) == 8) {
    return log1p_v(e);
  } else {
    const V s = e / (e + 2.0f), z = s * s;
    V p = z * 0.232392405f + 0.217032675f;
    p = p * z + 0.285925874f;
    p = p * z + 0.399997012f;
    p = p * z + 0.666666673f;
    return s * z * p + (s + s);
  }
}

// log(1 + exp x) and its derivative.
template <class V>
ORD_INLINE void softplus_sigmoid(V x, V& sp, V& sg) {
  V e, em1;
  exp_neg(x, e, em1);
  sp = (x > 0.0f ? x : (x == x ? (V){} : x)) + log1p_unit(e);
  const V q = 1.0f / (e + 1.0f);
  sg = x >= 0.0f ? q : e * q;
}

}  // namespace ORD_ISA
