// encode_increments and nested_min. Included once per instruction set.
//
// nested_min is sequential in k, so its scan runs with one row per lane, on tiles that are transposed in registers. All that a
// row needs from it is where the cap is reached and what is left there; the parts and the gradients are then written row by row.
#pragma once
#include "common/vmath.h"
#include "cpu/increments.h"

#define ORD_MEMBER inline __attribute__((always_inline))

namespace ORD_ISA {
namespace {

using increments::Args;

// Swaps the off-diagonal blocks of size s, 2 s, ...
template <int s, class V, class I, int W>
ORD_INLINE void transpose_from(V (&t)[W]) {
  if constexpr (s < W) {
    I lo, hi;
    for (int p = 0; p < W; ++p) {
      lo[p] = p & s ? W + p - s : p;
      hi[p] = p & s ? W + p : p + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & s) continue;
      const V a = t[i], b = t[i + s];
      t[i] = __builtin_shuffle(a, b, lo);
      t[i + s] = __builtin_shuffle(a, b, hi);
    }
    transpose_from<2 * s, V, I, W>(t);
  }
}

// torch.clamp(v, 0, w): NaN of either goes through
template <class V>
ORD_INLINE V clip_width(V v, V w) {
  const V a = v < 0.0f ? (V){} : v;
  return a <= w ? a : (a == a ? w : a);
}

template <class T>
ORD_INLINE auto splat(T x) {  // not V{} + x: an addition of 0 is not nothing, because of -0
  typename Traits<T>::V v;
  for (int i = 0; i < kLanes<T>; ++i) v[i] = x;
  return v;
}

ORD_INLINE vi counting_from(int64_t k, vf) {
  vi lane;
  for (int i = 0; i < kLanes<float>; ++i) lane[i] = i;
  return lane + (int32_t)k;
}
ORD_INLINE vl counting_from(int64_t k, vd) {
  vl lane;
  for (int i = 0; i < kLanes<double>; ++i) lane[i] = i;
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
      : a(args), v((const S*)args.v), w((const S*)args.w), v_end(v + args.B * args.K), w_end(w + (args.shared ? 1 : args.B) * args.K) {}

  // t[k] = column k0 + k of rows r0, ..., r0 + n - 1
  ORD_MEMBER void columns(const S* x, const S* x_end, int64_t r0, int n, int64_t k0, int m, V (&t)[W]) const {
    const S* p = x + r0 * a.K + k0;
    if (n == W && m == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) t[i] = load(p + i * a.K);
    } else {
      for (int i = 0; i < W; ++i) t[i] = i < n ? load(p + i * a.K, m, x_end) : V{};
    }
    transpose_from<1, V, I, W>(t);
  }

  // The scan of rows r0, ...: the sum, the first k that reaches the cap (K: none) and what is left there.
  // Not inlined: forward and backward share the code.
  template <bool CAPPED, bool SHARED>
  __attribute__((noinline)) void scan(int64_t r0, int n, V& to_sum, I& to_first, V& to_left) const {
    V cap{}, sum{}, left{};
    I live = ~I{}, first{};
    if (CAPPED) cap = a.capacity ? load((const S*)a.capacity + r0, n, (const S*)a.capacity + a.B) : splat((T)a.cap);
    const auto step = [&](V vk, V wk) __attribute__((always_inline)) {
      const V ak = clip_width(vk, wk);
      if (CAPPED) {
        const V rest = cap - sum;
        const I below = (I)(ak < rest);  // NaN counts as reached and stays
        left = live & ~below ? (ak == ak ? rest : ak) : left;
        live &= below;
        first -= live;
        sum += (V)((I)ak & live);
      } else {
        sum += ak;
      }
    };
    for (int64_t k0 = 0; k0 < a.K; k0 += W) {
      const int m = a.K - k0 < W ? (int)(a.K - k0) : W;
      V t[W], u[W];
      columns(v, v_end, r0, n, k0, m, t);
      if (!SHARED) columns(w, w_end, r0, n, k0, m, u);
      if (m == W) {
#pragma GCC unroll 16
        for (int k = 0; k < W; ++k) step(t[k], SHARED ? splat(number(w[k0 + k])) : u[k]);
      } else {
        for (int k = 0; k < m; ++k) step(t[k], SHARED ? splat(number(w[k0 + k])) : u[k]);
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

template <class S, bool CAPPED, bool SHARED>
ORD_INLINE void nested_rows(const Args& args, int64_t begin, int64_t end) {
  using R = Rows<S>;
  using V = typename R::V;
  using I = typename R::I;
  using L [[maybe_unused]] = typename R::L;
  constexpr int W = R::W;
  const R rows(args);
  const int64_t K = args.K;
  S *value = (S*)args.value, *out = (S*)args.out;
  for (int64_t r0 = begin; r0 < end; r0 += W) {
    const int n = end - r0 < W ? (int)(end - r0) : W;
    V sum, left;
    I first;
    rows.template scan<CAPPED, SHARED>(r0, n, sum, first, left);
    store(value + r0, sum, n);
    const V after = left == left ? V{} : left;
    for (int i = 0; i < n; ++i) {
      const int64_t r = r0 + i;
      vectors<typename R::T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
        V part = clip_width(load(rows.v + r * K + k, m, rows.v_end), rows.template widths<SHARED>(r, k, m));
        if (CAPPED) {
          const I at = counting_from(k, V{});
          const I cap = I{} + first[i];
          part = at < cap ? part : (at == cap ? splat(left[i]) : splat(after[i]));
        }
        store(out + r * K + k, part, m);
      });
    }
  }
}

// sums += scratch, scratch = 0
template <class T>
ORD_INLINE void flush(T* __restrict scratch, double* __restrict sums, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    sums[i] += (double)scratch[i];
    scratch[i] = 0;
  }
}
constexpr int64_t kFlush = 256;  // rows that are summed in the compute type

template <class S, bool CAPPED, bool SHARED>
ORD_INLINE void nested_rows_backward(const Args& args, int64_t begin, int64_t end, double* sums, double* scratch) {
  using R = Rows<S>;
  using T = typename R::T;
  using V = typename R::V;
  using I = typename R::I;
  using L [[maybe_unused]] = typename R::L;
  constexpr int W = R::W;
  const R rows(args);
  const int64_t K = args.K;
  const S *gy = (const S*)args.g_value, *go = (const S*)args.g_out, *go_end = go + args.B * K;
  S *gv = (S*)args.gv, *gw = (S*)args.gw, *gc = (S*)args.gc;
  T* acc = (T*)scratch;
  for (int64_t r0 = begin; r0 < end; r0 += W) {
    const int n = end - r0 < W ? (int)(end - r0) : W;
    V sum, left, base{}, to_cap{};
    I first{};
    if (gy) base = load(gy + r0, n, gy + args.B);
    if (CAPPED) {
      rows.template scan<CAPPED, SHARED>(r0, n, sum, first, left);
      const I inside = first < (I{} + (L)K);
      V at_cap{};
      if (go)
        for (int i = 0; i < n; ++i)
          if (inside[i]) at_cap[i] = number(go[(r0 + i) * K + first[i]]);
      to_cap = inside ? at_cap + base : V{};
      base = inside ? -at_cap : base;
      if (gc) store(gc + r0, to_cap, n);
    }
    for (int i = 0; i < n; ++i) {
      const int64_t r = r0 + i;
      const V b = splat((T)base[i]);
      vectors<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
        const V x = load(rows.v + r * K + k, m, rows.v_end), w = rows.template widths<SHARED>(r, k, m);
        V g = go ? load(go + r * K + k, m, go_end) + b : b;
        if (CAPPED) g = counting_from(k, V{}) < I{} + first[i] ? g : V{};
        store(gv + r * K + k, (I)(x >= 0.0f) & (I)(x <= w) ? g : V{}, m);
        if (SHARED) {
          if (!acc) return;
          V s = load(acc + k);  // scratch is padded to whole vectors
          s += (I)(x > w) & (m == W ? ~I{} : first_lanes(m, V{})) ? g : V{};
          store(acc + k, s);
        } else if (gw) {
          store(gw + r * K + k, x > w ? g : V{}, m);
        }
      });
    }
    if (SHARED && acc && (r0 - begin) % kFlush == kFlush - W) flush(acc, sums, K);
  }
  if (SHARED && acc) flush(acc, sums, K);
}

// Lower edges of one row of widths, in the compute type.
template <class S, class T>
ORD_INLINE void lower_edges(const S* w, int64_t K, T* c) {
  T sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    c[k] = sum;
    sum += number(w[k]);
  }
}

template <class S>
ORD_INLINE void encode_rows(const Args& args, int64_t begin, int64_t end, double* scratch) {
  using R = Rows<S>;
  using T = typename R::T;
  using V = typename R::V;
  const int64_t K = args.K;
  const S *y = (const S*)args.v, *w = (const S*)args.w, *w_end = w + (args.shared ? 1 : args.B) * K;
  S* out = (S*)args.out;
  T* c = (T*)scratch;
  if (args.shared) lower_edges(w, K, c);
  for (int64_t r = begin; r < end; ++r) {
    const S* wr = args.shared ? w : w + r * K;
    if (!args.shared) lower_edges(wr, K, c);
    const V yr = splat(number(y[r]));
    vectors<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
      store(out + r * K + k, clip_width(yr - load(c + k), load(wr + k, m, w_end)), m);
    });
  }
}

// v_j rises with y where it is inside, falls there with every earlier width, and rises with its own where y is above.
template <class S>
ORD_INLINE void encode_rows_backward(const Args& args, int64_t begin, int64_t end, double* sums, double* scratch) {
  using R = Rows<S>;
  using T = typename R::T;
  using V = typename R::V;
  using I = typename R::I;
  using L [[maybe_unused]] = typename R::L;
  const int64_t K = args.K, padded = (K + 15) / 16 * 16;
  const S *y = (const S*)args.v, *w = (const S*)args.w, *w_end = w + (args.shared ? 1 : args.B) * K;
  const S *go = (const S*)args.g_out, *go_end = go + args.B * K;
  S *gy = (S*)args.gv, *gw = (S*)args.gw;
  T *c = (T*)scratch, *pass = (T*)(scratch + padded), *above = (T*)(scratch + 2 * padded);
  if (args.shared) lower_edges(w, K, c);
  for (int64_t r = begin; r < end; ++r) {
    const S* wr = args.shared ? w : w + r * K;
    if (!args.shared) lower_edges(wr, K, c);
    const V yr = splat(number(y[r]));
    V total{};
    vectors<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
      const V d = yr - load(c + k), wk = load(wr + k, m, w_end), g = load(go + r * K + k, m, go_end);  // g: zeros behind the end
      const V in = (I)(d >= 0.0f) & (I)(d <= wk) ? g : V{}, up = d > wk ? g : V{};
      total += in;
      if (args.shared) {
        store(pass + k, load(pass + k) + in);
        store(above + k, load(above + k) + up);
      } else {
        store(pass + k, in);
        store(above + k, up);
      }
    });
    store(gy + r, V{} + sum(total), 1);
    if (!args.shared && gw) {
      T later = 0;
      for (int64_t k = K - 1; k >= 0; --k) {
        above[k] -= later;
        later += pass[k];
      }
      vectors<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) { store(gw + r * K + k, load(above + k), m); });
    }
    if (args.shared && ((r - begin) % kFlush == kFlush - 1 || r == end - 1)) {
      flush(pass, sums, K);
      flush(above, sums + padded, K);
    }
  }
}

}  // namespace

#define ORD_BY_TYPE(CALL)      \
  switch (a.type) {            \
    case 0: CALL(float); break;  \
    case 1: CALL(double); break; \
    case 2: CALL(bf16); break;   \
    default: CALL(f16);          \
  }

void nested_min(const Args& a, int64_t begin, int64_t end) {
#define ORD_CALL(S)                                                                                                \
  a.capped ? (a.shared ? nested_rows<S, true, true>(a, begin, end) : nested_rows<S, true, false>(a, begin, end)) \
           : (a.shared ? nested_rows<S, false, true>(a, begin, end) : nested_rows<S, false, false>(a, begin, end))
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}

void nested_min_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
#define ORD_CALL(S)                                                                    \
  a.capped ? (a.shared ? nested_rows_backward<S, true, true>(a, begin, end, sums, scratch)    \
                       : nested_rows_backward<S, true, false>(a, begin, end, sums, scratch))  \
           : (a.shared ? nested_rows_backward<S, false, true>(a, begin, end, sums, scratch)   \
                       : nested_rows_backward<S, false, false>(a, begin, end, sums, scratch))
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}

void encode_increments(const Args& a, int64_t begin, int64_t end, double* scratch) {
#define ORD_CALL(S) encode_rows<S>(a, begin, end, scratch)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}

void encode_increments_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
#define ORD_CALL(S) encode_rows_backward<S>(a, begin, end, sums, scratch)
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}
#undef ORD_BY_TYPE

}  // namespace ORD_ISA
