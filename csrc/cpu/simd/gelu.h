// x Phi(x), with Phi the normal distribution function, and its derivative.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

// Phi(x), absolute error below 2e-7: erf by Cephes' polynomials, in x^2 below 1 and in 1 / x^2 above.
ORD_INLINE vf normal_cdf(vf x) {
  const vf u = absolute(x) * 0.70710678f, z = u * u;
  vf p = z * 7.853861353153693e-5f - 8.010193625184903e-4f;
  p = p * z + 5.188327685732524e-3f;
  p = p * z - 2.685381193529856e-2f;
  p = p * z + 1.128358514861418e-1f;
  p = p * z - 3.761262582423300e-1f;
  p = p * z + 1.128379165726710e0f;
  const vf near = u * p;
  const vf inv = 1.0f / (u < 1.0f ? (vf){} + 1.0f : u), w = inv * inv;
  vf q = w * 2.326819970068386e-2f - 1.387039388740657e-1f;  // 1 to 2
  q = q * w + 3.687424674597105e-1f;
  q = q * w - 5.824733027278666e-1f;
  q = q * w + 6.210004621745983e-1f;
  q = q * w - 4.944515323274145e-1f;
  q = q * w + 3.404879937665872e-1f;
  q = q * w - 2.741127028184656e-1f;
  q = q * w + 5.638259427386472e-1f;
  vf r = w * -1.047766399936249e+1f + 1.297719955372516e+1f;  // above
  r = r * w - 7.495518717768503e+0f;
  r = r * w + 2.921019019210786e+0f;
  r = r * w - 1.015265279202700e+0f;
  r = r * w + 4.218463358204948e-1f;
  r = r * w - 2.820767439740514e-1f;
  r = r * w + 5.641895067754075e-1f;
  vf e, em1;
  exp_neg(z, e, em1);
  const vf far = 1.0f - e * inv * (u < 2.0f ? q : r);
  const vf erf = with_sign(u < 1.0f ? near : far, x);
  return 0.5f * erf + 0.5f;
}
ORD_INLINE vd normal_cdf(vd x) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) {
    r[i] = 0.5 * __builtin_erfc(-x[i] * 0.70710678118654752440);
  }
  return r;
}

template <class V>
ORD_INLINE V gelu(V x) {
  return x * normal_cdf(x);
}
template <class V>
ORD_INLINE V gelu_slope(V x) {  // Phi(x) + x phi(x)
  V e, em1;
  exp_neg(x * x * 0.5f, e, em1);
  return normal_cdf(x) + x * e * (decltype(x[0] + 0))0.39894228040143267794;
}

}  // namespace
}  // namespace ORD_ISA
