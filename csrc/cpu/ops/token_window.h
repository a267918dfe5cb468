// A row of logits over value tokens: its largest, the exponentials in a window around that, gradients summed in two
// stages. Shared by embedding_mixup and windowed_value.
#pragma once
#include "cpu/simd/convert.h"
#include "cpu/token_args.h"

namespace ORD_ISA {
namespace {

using tokens::padded;
using tokens::TokenArgs;

struct Window {
  int64_t begin, end;
};

template <class T>
ORD_INLINE auto splat(T x) {  // one broadcast; lane by lane GCC makes it a chain of inserts. x - 0 is x, -0 too
  return x - typename Traits<T>::V{};
}
ORD_INLINE vi lane_numbers(vf) {
  vi lane;
  for (int i = 0; i < kLanes<float>; ++i) {
    lane[i] = i;
  }
  return lane;
}
ORD_INLINE vl lane_numbers(vd) {
  vl lane;
  for (int i = 0; i < kLanes<double>; ++i) {
    lane[i] = i;
  }
  return lane;
}

// A row's largest logit and its place, the first of equals; -1 where there is no softmax (NaN, inf, or all -inf).
template <class T>
struct Largest {
  T value;
  int64_t at;
};
template <class T>
static __attribute__((noinline)) Largest<T> largest_of(Elements<T> x, int64_t n) {
  using V = typename Traits<T>::V;
  using I = typename Traits<T>::I;
  constexpr int W = kLanes<T>;
  const V low = splat((T)-__builtin_inff());
  V best = low;
  I at = lane_numbers(V{}), here = at, nan{};
  for (int64_t j = 0; j < n; j += W, here += W) {
    const int lanes = n - j < W ? (int)(n - j) : W;
    V v = x.at(j, lanes);
    if (lanes < W) {
      v = first_lanes(lanes, V{}) ? v : low;
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
  return {max, any(nan) || !(__builtin_fabs((double)max) < __builtin_inf()) ? -1 : where};
}

// p[0, n) = exp(x - max), zeros up to a whole vector; returns the sum.
template <class T>
static __attribute__((noinline)) T exponentials(Elements<T> x, int64_t n, T max, T* p) {
  using V = typename Traits<T>::V;
  using I = typename Traits<T>::I;
  V total{}, e{}, em1{};
  const V m = splat(max);
  for_each_vector<T>(n, [&](int64_t j, int lanes) __attribute__((always_inline)) {
    exp_neg(x.at(j, lanes) - m, e, em1);
    if (lanes < kLanes<T>) {
      e = (V)((I)e & first_lanes(lanes, V{}));
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

template <class T>
static void fill_nan(T* p, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    p[i] = (T)__builtin_nanf("");
  }
}
template <class T>
ORD_INLINE void fill_zero(T* p, int64_t n) {
  __builtin_memset(p, 0, n * sizeof(T));
}

// The gradient of a table is summed over kFlushRows rows in the compute type, then in fp64: sums += part, part = 0.
constexpr int64_t kFlushRows = 256;
template <class T>
static void flush(T* __restrict part, double* __restrict sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    sums[i] += (double)part[i];
    part[i] = 0;
  }
}

// A row of logits, through `buffer` if of a half type.
template <class T>
ORD_INLINE Elements<T> logits_of(const TokenArgs& a, int64_t r, T* buffer) {
  return read_elements<T>(a.type, a.logits, r * a.V, a.V, a.R * a.V, buffer);
}

}  // namespace
}  // namespace ORD_ISA
