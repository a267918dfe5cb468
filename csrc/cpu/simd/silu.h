// x / (1 + exp(-x)), vectors and whole arrays.
#pragma once
#include "cpu/simd/vmath.h"
#if ORD_BYTES == 64 && defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ORD_ISA {
namespace {

// 2^f for |f| <= 1/2, relative error 9e-8.
ORD_INLINE vf power_of_two(vf f) {
  vf p = f * 1.3264817e-3f + 9.6715130e-3f;
  p = p * f + 5.5507336e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314700e-1f;
  return p * f + 1.0f;
}

// x / (1 + exp(-x)), absolute error below 1e-7 max(1, |x|); -inf and NaN give NaN.
#if ORD_BYTES == 64 && defined(__x86_64__)
ORD_INLINE vf silu(vf x) {
  constexpr __mmask16 kAll = 0xFFFF;  // the plain forms read a vector that is not there, of which GCC warns
  const vf z = x * -1.44269504f;
  const vf f = _mm512_maskz_reduce_ps(kAll, z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // 0 for infinity
  return x / (_mm512_maskz_scalef_ps(kAll, power_of_two(f), z - f) + 1.0f);
}
// 1 / (1 + exp(-x)), absolute error below 1e-7.
ORD_INLINE vf logistic(vf x) {
  constexpr __mmask16 kAll = 0xFFFF;
  const vf z = x * -1.44269504f;
  const vf f = _mm512_maskz_reduce_ps(kAll, z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return 1.0f / (_mm512_maskz_scalef_ps(kAll, power_of_two(f), z - f) + 1.0f);
}
#else
// z within [-126, 128], NaN as it is. One instruction a bound; the comparison written out becomes two.
ORD_INLINE vf exponent_within(vf z) {
  const vf low = (vf){} - 126.0f, high = (vf){} + 128.0f;
#if defined(__clang__) || !defined(__x86_64__)
  z = z > high ? high : z;
  return z < low ? low : z;
#elif ORD_BYTES == 32
  return __builtin_ia32_maxps256(low, __builtin_ia32_minps256(high, z));
#else
  return __builtin_ia32_maxps(low, __builtin_ia32_minps(high, z));
#endif
}

// 1 + exp(-x); infinite from x = -88.7 down.
ORD_INLINE vf one_plus_exp_neg(vf x) {
  const vf z = exponent_within(x * -1.44269504f);
  const vf t = z + 12582912.0f;  // rounds to the nearest integer: + 1.5 * 2^23
  const vf s = (vf)((vi)((vu)t << 23) + 0x3F800000);
  return s * power_of_two(z - (t - 12582912.0f)) + 1.0f;
}

ORD_INLINE vf silu(vf x) { return x / one_plus_exp_neg(x); }
// 1 / (1 + exp(-x)), absolute error below 1e-7.
ORD_INLINE vf logistic(vf x) { return 1.0f / one_plus_exp_neg(x); }
#endif
ORD_INLINE vd silu(vd x) {
  vd e, em1;
  exp_neg(x, e, em1);
  return (x < 0.0 ? x * e : x) / (e + 1.0);
}
ORD_INLINE vd logistic(vd x) {
  vd e, em1;
  exp_neg(x, e, em1);
  return (x < 0.0 ? e : vd{} + 1.0) / (e + 1.0);
}

template <class T>
__attribute__((noinline)) static void silu_all(T* __restrict h, int64_t n) {
  constexpr int W = kLanes<T>;
  for (int64_t i = 0; i < n; i += 2 * W) {
    const auto a = silu(load(h + i)), b = silu(load(h + i + W));
    store(h + i, a);
    store(h + i + W, b);
  }
}

}  // namespace
}  // namespace ORD_ISA
