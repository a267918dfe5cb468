// The vector functions by number, for their accuracy tests.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {

template <class T, class F>
ORD_INLINE void map_vectors(const T* x, T* y, int64_t n, F f) {
  vectors<T>(n, [&](int64_t i, int m) __attribute__((always_inline)) { store(y + i, f(load(x + i, m, x + n)), m); });
}

template <class H>
ORD_INLINE void round_trip(const float* x, float* y, int64_t n) {
  map_vectors(x, y, n, [](vf v) __attribute__((always_inline)) {
    H some[kLanes<float>];
    store(some, v);
    return load(some);
  });
}

template <class T>
ORD_INLINE bool probe(int which, const T* x, T* y, int64_t n) {
  using V = typename Traits<T>::V;
  V a = {}, b = {};
  switch (which) {
    case 0:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        exp_neg(v, a, b);
        return a;
      });
      return true;
    case 1:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        tanh_sech2(v, a, b);
        return a;
      });
      return true;
    case 2:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        tanh_sech2(v, a, b);
        return b;
      });
      return true;
    case 3: map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) { return log_plus(v, V{}); }); return true;
    case 4: map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) { return log1p_v(v); }); return true;
    case 5:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        softplus_sigmoid(v, a, b);
        return a;
      });
      return true;
    case 6:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        softplus_sigmoid(v, a, b);
        return b;
      });
      return true;
  }
  return false;
}

bool vmath_f32(int which, const float* x, float* y, int64_t n) {
  if (which == 7) {
    return round_trip<bf16>(x, y, n), true;
  }
  if (which == 8) {
    return round_trip<f16>(x, y, n), true;
  }
  return probe(which, x, y, n);
}
bool vmath_f64(int which, const double* x, double* y, int64_t n) { return probe(which, x, y, n); }

}  // namespace ORD_ISA
