// Rows of increments as encode_increments and nested_min read them.
#pragma once
#include "cpu/ops/increments_args.h"
#include "cpu/simd/vmath.h"

#define ORD_MEMBER inline __attribute__((always_inline))

namespace ORD_ISA {
namespace {

using increments::Args;

#define ORD_TARGET
#include "cpu/simd/transpose.h"
#undef ORD_TARGET

// torch.clamp(v, 0, w): NaN of either goes through
template <class V>
ORD_INLINE V clip_width(V v, V w) {
  const V a = v < 0.0f ? (V){} : v;
  return a <= w ? a : (a == a ? w : a);
}

template <class T>
ORD_INLINE auto splat(T x) {  // not V{} + x: an addition of 0 is not nothing, because of -0
  typename Traits<T>::V v;
  for (int i = 0; i < kLanes<T>; ++i) {
    v[i] = x;
  }
  return v;
}

ORD_INLINE vi counting_from(int64_t k, vf) {
  vi lane;
  for (int i = 0; i < kLanes<float>; ++i) {
    lane[i] = i;
  }
  return lane + (int32_t)k;
}
ORD_INLINE vl counting_from(int64_t k, vd) {
  vl lane;
  for (int i = 0; i < kLanes<double>; ++i) {
    lane[i] = i;
  }
  return lane + k;
}
template <class I>
struct Lane {  // the type of one lane of a vector of integers
  typedef int32_t L;
};
template <>
struct Lane<vl> {
  typedef int64_t L;
};

template <class S>
struct Rows {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  using L = typename Lane<I>::L;
  static constexpr int W = kLanes<T>;

  const Args& a;
  const S *v, *w, *v_end, *w_end;

  explicit ORD_MEMBER Rows(const Args& args)
      : a(args),
        v((const S*)args.v),
        w((const S*)args.w),
        v_end(v + args.B * args.K),
        w_end(w + (args.shared ? 1 : args.B) * args.K) {}

  // t[k] = column k0 + k of rows r0, ..., r0 + n - 1
  ORD_MEMBER void columns(const S* x, const S* x_end, int64_t r0, int n, int64_t k0, int m, V (&t)[W]) const {
    const S* p = x + r0 * a.K + k0;
    if (n == W && m == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        t[i] = load(p + i * a.K);
      }
    } else {
      for (int i = 0; i < W; ++i) {
        t[i] = i < n ? load(p + i * a.K, m, x_end) : V{};
      }
    }
    transpose<1, W>(t);
  }

  // Row r of x, for later: a scan reads a line of each of W rows, then the next ones, which the hardware does not see
  // coming.
  ORD_MEMBER void prefetch(const S* x, int64_t r) const {
    if (a.K * sizeof(S) > 4096) {
      return;  // long rows are streams
    }
    for (int64_t k = 0; k < a.K; k += 64 / sizeof(S)) {
      __builtin_prefetch(x + r * a.K + k, 0, 2);
    }
  }

  // The scan of rows r0, ...: the sum, the first k that reaches the cap (K: none) and what is left there.
  // Not inlined: forward and backward share the code.
  template <bool CAPPED, bool SHARED>
  __attribute__((noinline)) void scan(int64_t r0, int n, V& to_sum, I& to_first, V& to_left) const {
    V cap{}, sum{}, left{};
    I live = ~I{}, first{};
    if (CAPPED) {
      cap = a.capacity ? load((const S*)a.capacity + r0, n, (const S*)a.capacity + a.B) : splat((T)a.cap);
    }
    const auto step = [&](V vk, V wk) __attribute__((always_inline)) {
      const V ak = clip_width(vk, wk);
      if (CAPPED) {
        const V rest = cap - sum;
        const I below = (I)(ak < rest);  // NaN counts as reached and stays
        left = live & ~below ? (ak == ak ? rest : ak) : left;
        live &= below;
        first -= live;
      }
      sum += ak;  // what follows the cap does not count
    };
    for (int64_t k0 = 0; k0 < a.K; k0 += W) {
      const int m = a.K - k0 < W ? (int)(a.K - k0) : W;
      V t[W], u[W];
      columns(v, v_end, r0, n, k0, m, t);
      if (!SHARED) {
        columns(w, w_end, r0, n, k0, m, u);
      }
      if (m == W) {
#pragma GCC unroll 16
        for (int k = 0; k < W; ++k) {
          step(t[k], SHARED ? splat(scalar(w[k0 + k])) : u[k]);
        }
      } else {
        for (int k = 0; k < m; ++k) {
          step(t[k], SHARED ? splat(scalar(w[k0 + k])) : u[k]);
        }
      }
      if (CAPPED && !any(live)) {
        break;
      }
    }
    to_sum = live ? sum : (left == left ? cap : left);
    to_first = CAPPED ? first : I{} + (L)a.K;
    to_left = left;
  }

  template <bool SHARED>
  ORD_MEMBER V widths(int64_t r, int64_t k, int n) const {
    return load(w + (SHARED ? 0 : r * a.K) + k, n, w_end);
  }
};

constexpr int64_t kFlush = 256;  // rows that are summed in the compute type

// sums += scratch, scratch = 0
template <class T>
ORD_INLINE void flush(T* __restrict scratch, double* __restrict sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    sums[i] += (double)scratch[i];
    scratch[i] = 0;
  }
}

}  // namespace
}  // namespace ORD_ISA
