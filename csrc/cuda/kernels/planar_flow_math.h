// The functions of one number that planar layers are made of: fp32 or fp64, as reference/_planar_flow.py defines them.
#pragma once
#include "numbers.h"

namespace planar {

enum Mode { kUnconstrained, kConstrained, kSmooth };

template <class A>
constexpr A kTiny = sizeof(A) == 8 ? A(1e-290) : A(1e-30);  // determinants below it are taken in logarithms
constexpr double kSmoothShift = 0.54132485461291810;        // ln(e - 1): softplus of it is 1

template <class A>
__device__ __forceinline__ A softplus(A x) {
  return x > A(50) ? x : log1p(exp(x));
}
template <class A>
__device__ __forceinline__ A sech2(A a) {  // 1 - tanh^2 without the cancellation
  const A e = exp(A(-2) * fabs(a));
  return A(4) * e / ((A(1) + e) * (A(1) + e));
}

// What a layer needs of x = w.u: uhat = u + c inverse w, s = w.uhat, the argument of softplus, and ds/dx.
template <class A>
struct Terms {
  A c, inverse, n2, s, shifted,
      slope;  // inverse: of a power of 2 that w is divided by; n2 = |inverse w|^2, 1 for w = 0
};

template <class A>
__device__ __forceinline__ Terms<A> terms_of(A x, A n2, A inverse, int mode) {
  if (mode == kUnconstrained) {
    return {A(0), A(1), A(1), x, x, A(1)};
  }
  const bool live = n2 != A(0);  // NaN is
  const A shifted = mode == kSmooth ? x + A(kSmoothShift) : x;
  A m = softplus(shifted) - A(1);
  // Of large x, softplus(x) is x to the last bit: neither cancellation nor infinity less infinity.
  A rest = x > A(64) ? (mode == kSmooth ? A(kSmoothShift) : A(0)) - A(1) : m - x;
  if (mode == kSmooth && fabs(x) < A(1)) {  // m(x) = log1p((1 - 1/e) expm1(x)), m(x) - x = log1p(expm1(-x) / e)
    const A e1 = A(0.36787944117144233), grown = expm1(x < A(0) ? x : -x);
    const A y = log1p(x < A(0) ? (A(1) - e1) * grown : grown * e1);
    m = x < A(0) ? y : x + y;
    rest = x < A(0) ? y - x : y;
  }
  const A c = live ? rest / n2 * inverse : A(0);
  const bool broken = c != c || x == A(-INFINITY);
  const A s = broken ? not_a_number<A>() : live ? m : x;
  return {c, inverse, live ? n2 : A(1), s, shifted, live ? A(1) / (A(1) + exp(-shifted)) : A(1)};
}

// log |1 + sech^2(a) s|; constrained: log(tanh^2 a + sech^2(a) softplus(x)), in logarithms where that underflows.
template <class A>
__device__ __forceinline__ A log_abs_det(A a, A s, A x, int mode) {
  const A h = sech2(a), v = h * s;
  if (!(v <= A(-0.5))) {
    return log1p(v);
  }
  if (mode == kUnconstrained) {
    return log(fabs(A(1) + v));
  }
  const A t = tanh(a), det = t * t + h * softplus(x);
  if (!(det < kTiny<A>)) {
    return log(det);
  }
  const A l = A(2) * log(fabs(t));  // t = 0: minus infinity
  const A most = fmax(l, x);
  return most == A(-INFINITY) ? most : most + log1p(exp(fmin(l, x) - most));
}

// d log_det / d a and d log_det / d(w.u).
template <class A>
__device__ __forceinline__ void log_det_slopes(A a, const Terms<A>& terms, int mode, A& by_a, A& by_x) {
  const A t = tanh(a), h = sech2(a), s = terms.s, x = terms.shifted;
  const bool near = !(h * s <= A(-0.5));
  const A det = near || mode == kUnconstrained ? A(1) + h * s : t * t + h * softplus(x);
  if (mode != kUnconstrained && det < kTiny<A>) {
    const A log_det = log_abs_det(a, s, x, mode);
    const A sign = t > A(0) ? A(1) : t < A(0) ? A(-1) : A(0);
    by_a = A(2) * sign * exp(log(fabs(t)) - log_det);
    by_x = exp(x - log_det);
    return;
  }
  by_a = A(-2) * t * h * s / det;
  by_x = h * terms.slope / det;
}

}  // namespace planar
