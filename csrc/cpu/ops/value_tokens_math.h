// What the kernels of value_tokens are made of: a row's largest logit, its exps, sums in two stages.
#pragma once
#include "cpu/simd/vmath.h"
#include "cpu/value_tokens.h"

namespace ORD_ISA {
namespace {
namespace tokens {

using value_tokens::Args;
using value_tokens::padded;

template <class T>
ORD_INLINE auto splat(T x) {  // one broadcast; lane by lane GCC makes it a chain of inserts. x - 0 is x, -0 too
  return x - typename Traits<T>::V{};
}
ORD_INLINE vi lanes(vf) {
  vi lane;
  for (int i = 0; i < kLanes<float>; ++i) {
    lane[i] = i;
  }
  return lane;
}
ORD_INLINE vl lanes(vd) {
  vl lane;
  for (int i = 0; i < kLanes<double>; ++i) {
    lane[i] = i;
  }
  return lane;
}

// A row's largest logit and its place, the first of equals; -1 where there is no softmax (NaN, inf, or nothing but
// -inf).
template <class T>
struct Top {
  T max;
  int64_t at;
};
template <class S>
ORD_INLINE auto top(const S* x, int64_t n, const S* end) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  constexpr int W = kLanes<T>;
  const V low = splat((T)-__builtin_inff());
  V best = low;
  I at = lanes(V{}), here = at, nan{};
  for (int64_t j = 0; j < n; j += W, here += W) {
    const int m = n - j < W ? (int)(n - j) : W;
    V v = load(x + j, m, end);
    if (m < W) {
      v = first_lanes(m, V{}) ? v : low;
    }
    const I more = v > best;
    best = more ? v : best;
    at = more ? here : at;
    nan |= v != v;
  }
  T max = best[0];
  int64_t where = at[0];
  for (int i = 1; i < W; ++i) {
    const bool better = best[i] > max || (best[i] == max && at[i] < where);
    max = better ? best[i] : max;
    where = better ? at[i] : where;
  }
  return Top<T>{max, any(nan) || !(__builtin_fabs((double)max) < __builtin_inf()) ? -1 : where};
}

// p[0, n) = exp(x - max), zeros up to a whole vector; returns the sum.
template <class S, class T>
ORD_INLINE T exps(const S* x, int64_t n, const S* end, T max, T* p) {
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  V total{}, e{}, em1{};
  const V m = splat(max);
  for_each_vector<T>(n, [&](int64_t j, int k) __attribute__((always_inline)) {
    exp_neg(load(x + j, k, end) - m, e, em1);
    if (k < kLanes<T>) {
      e = (V)((I)e & first_lanes(k, V{}));
    }
    store(p + j, e);
    total += e;
  });
  return sum(total);
}

template <class T>
ORD_INLINE void scale(T* p, int64_t n, T by) {
  const auto f = splat(by);
  for (int64_t j = 0; j < n; j += kLanes<T>) {
    store(p + j, load(p + j) * f);
  }
}

template <class O>
ORD_INLINE void fill_nan(O* p, int64_t n) {
  using T = typename Traits<O>::T;
  const auto v = splat((T)__builtin_nanf(""));
  for_each_vector<T>(n, [&](int64_t j, int k) __attribute__((always_inline)) { store(p + j, v, k); });
}
template <class O>
ORD_INLINE void fill_zero(O* p, int64_t n) {
  __builtin_memset(p, 0, n * sizeof(O));
}

// sums += part, part = 0
template <class T>
ORD_INLINE void flush(T* __restrict part, double* __restrict sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    sums[i] += (double)part[i];
    part[i] = 0;
  }
}
constexpr int64_t kFlush = 256;  // rows that are summed in the compute type

}  // namespace tokens
}  // namespace
}  // namespace ORD_ISA
