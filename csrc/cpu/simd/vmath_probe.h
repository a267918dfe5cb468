// The vector functions by number, for their accuracy tests.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {

template <class T, class F>
ORD_INLINE void map_vectors(const T* x, T* y, int64_t n, F f) {
  for_each_vector<T>(
      n, [&](int64_t i, int m) __attribute__((always_inline)) { store(y + i, f(load(x + i, m, x + n)), m); });
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
ORD_INLINE void probe(int which, const T* x, T* y, int64_t n) {
  using V = typename Traits<T>::V;
  V a = {}, b = {};
  switch (which) {
    case 0:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        exp_neg(v, a, b);
        return a;
      });
      break;
    case 1:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        tanh_sech2(v, a, b);
        return a;
      });
      break;
    case 2:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        tanh_sech2(v, a, b);
        return b;
      });
      break;
    case 3: map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) { return log_plus(v, V{}); }); break;
    case 4: map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) { return log1p_v(v); }); break;
    case 5:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        softplus_sigmoid(v, a, b);
        return a;
      });
      break;
    case 6:
      map_vectors(x, y, n, [&](V v) __attribute__((always_inline)) {
        softplus_sigmoid(v, a, b);
        return b;
      });
      break;
  }
}

void vmath_f32(int which, const float* x, float* y, int64_t n) {
  switch (which) {
    case 7: return round_trip<bf16>(x, y, n);
    case 8: return round_trip<f16>(x, y, n);
    default: return probe(which, x, y, n);
  }
}
void vmath_f64(int which, const double* x, double* y, int64_t n) { probe(which, x, y, n); }

}  // namespace ORD_ISA
