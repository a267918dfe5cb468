// encode_increments and nested_min. Included once per instruction set.
//
// nested_min is sequential in k, so its scan runs with one row per lane, on tiles that are transposed in registers. All
// that a row needs from it is where the cap is reached and what is left there; the parts and the gradients are then
// written row by row.
#pragma once
#include "cpu/ops/increments_tiles.h"

#define ORD_MEMBER inline __attribute__((always_inline))

namespace ORD_ISA {
namespace {

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
          step(t[k], SHARED ? splat(number(w[k0 + k])) : u[k]);
        }
      } else {
        for (int k = 0; k < m; ++k) {
          step(t[k], SHARED ? splat(number(w[k0 + k])) : u[k]);
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

template <class S, bool CAPPED, bool SHARED>
static void nested_rows(const Args& args, int64_t begin, int64_t end) {
  using R = Rows<S>;
  using T = typename R::T;
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
      const V left_i = splat((T)left[i]), after_i = splat((T)after[i]);
      const I cap = I{} + first[i];
      rows.prefetch(rows.v, r + 2 * W);
      if (!SHARED) {
        rows.prefetch(rows.w, r + 2 * W);
      }
      for_each_vector<typename R::T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
        V part = clip_width(load(rows.v + r * K + k, m, rows.v_end), rows.template widths<SHARED>(r, k, m));
        if (CAPPED) {
          const I at = counting_from(k, V{});
          part = at < cap ? part : (at == cap ? left_i : after_i);
        }
        store(out + r * K + k, part, m, args.stream);
      });
    }
  }
  if (args.stream) {
    __builtin_ia32_sfence();
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
template <class S, bool CAPPED, bool SHARED>
static void nested_rows_backward(const Args& args, int64_t begin, int64_t end, double* sums, double* scratch) {
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
    if (gy) {
      base = load(gy + r0, n, gy + args.B);
    }
    if (CAPPED) {
      rows.template scan<CAPPED, SHARED>(r0, n, sum, first, left);
      const I inside = first < (I{} + (L)K);
      V at_cap{};
      if (go) {
        for (int i = 0; i < n; ++i) {
          if (inside[i]) {
            at_cap[i] = number(go[(r0 + i) * K + first[i]]);
          }
        }
      }
      to_cap = inside ? at_cap + base : V{};
      base = inside ? -at_cap : base;
      if (gc) {
        store(gc + r0, to_cap, n);
      }
    }
    for (int i = 0; i < n; ++i) {
      const int64_t r = r0 + i;
      const V b = splat((T)base[i]);
      [[maybe_unused]] const I cap = I{} + first[i];
      rows.prefetch(rows.v, r + 2 * W);
      if (go) {
        rows.prefetch(go, r + 2 * W);
      }
      if (!SHARED) {
        rows.prefetch(rows.w, r + 2 * W);
      }
      for_each_vector<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
        const V x = load(rows.v + r * K + k, m, rows.v_end), w = rows.template widths<SHARED>(r, k, m);
        V g = go ? load(go + r * K + k, m, go_end) + b : b;
        if (CAPPED) {
          g = counting_from(k, V{}) < cap ? g : V{};
        }
        store(gv + r * K + k, (V)((I)g & (I)(x >= 0.0f) & (I)(x <= w)), m, args.stream);
        if (SHARED) {
          if (!acc) {
            return;
          }
          V s = load(acc + k);  // scratch is padded to whole vectors
          s += (I)(x > w) & (m == W ? ~I{} : first_lanes(m, V{})) ? g : V{};
          store(acc + k, s);
        } else if (gw) {
          store(gw + r * K + k, x > w ? g : V{}, m, args.stream);
        }
      });
    }
    if (SHARED && acc && (r0 - begin) % kFlush == kFlush - W) {
      flush(acc, sums, K);
    }
  }
  if (SHARED && acc) {
    flush(acc, sums, K);
  }
  if (args.stream) {
    __builtin_ia32_sfence();
  }
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

// Shared widths of which M, all lanes or half of them, fill vectors: W rows are M vectors, of rows' numbers side by
// side. Returns the first row that is left over. c: lower edges.
template <class S, int M, class T>
ORD_INLINE int64_t encode_tiles(const Args& args, int64_t begin, int64_t end, const T* c) {
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  constexpr int W = kLanes<T>, F = W / M;
  const S *y = (const S*)args.v, *w = (const S*)args.w;
  S* out = (S*)args.out;
  const bool stream = args.stream;
  V low, width;
  for (int l = 0; l < W; ++l) {
    low[l] = c[l % M], width[l] = number(w[l % M]);
  }
  int64_t r = begin;
  for (; r + W <= end; r += W) {
    const V rows = load(y + r);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      I from;
      for (int l = 0; l < W; ++l) {
        from[l] = i * F + l / M;
      }
      store(out + r * M + i * W, clip_width(__builtin_shuffle(rows, from) - low, width), W, stream);
    }
  }
  return r;
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
  if (args.shared) {
    lower_edges(w, K, c);
  }
  constexpr int W = kLanes<T>;
  if (args.shared && K == W) {
    begin = encode_tiles<S, W>(args, begin, end, c);
  }
  if (args.shared && K == W / 2) {
    begin = encode_tiles<S, W / 2>(args, begin, end, c);
  }
  for (int64_t r = begin; r < end; ++r) {
    const S* wr = args.shared ? w : w + r * K;
    if (!args.shared) {
      lower_edges(wr, K, c);
    }
    const V yr = splat(number(y[r]));
    for_each_vector<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
      store(out + r * K + k, clip_width(yr - load(c + k), load(wr + k, m, w_end)), m, args.stream);
    });
  }
  if (args.stream) {
    __builtin_ia32_sfence();
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
  if (args.shared) {
    lower_edges(w, K, c);
  }
  for (int64_t r = begin; r < end; ++r) {
    const S* wr = args.shared ? w : w + r * K;
    if (!args.shared) {
      lower_edges(wr, K, c);
    }
    const V yr = splat(number(y[r]));
    V total{};
    for_each_vector<T>(K, [&](int64_t k, int m) __attribute__((always_inline)) {
      const V d = yr - load(c + k), wk = load(wr + k, m, w_end),
              g = load(go + r * K + k, m, go_end);  // g: zeros behind the end
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
      for_each_vector<T>(
          K, [&](int64_t k, int m) __attribute__((always_inline)) { store(gw + r * K + k, load(above + k), m); });
    }
    if (args.shared && ((r - begin) % kFlush == kFlush - 1 || r == end - 1)) {
      flush(pass, sums, K);
      flush(above, sums + padded, K);
    }
  }
}

template <class S, bool CAPPED, bool SHARED>
static void nested(const Args& a, int64_t begin, int64_t end) {
  constexpr int W = Rows<S>::W;
  if (a.K == W) {
    return nested_tiles<S, CAPPED, SHARED, W>(a, begin, end);
  }
  if (a.K == W / 2) {
    return nested_tiles<S, CAPPED, SHARED, W / 2>(a, begin, end);
  }
  if constexpr (W >= 16) {
    if (a.K == W / 4) {
      return nested_tiles<S, CAPPED, SHARED, W / 4>(a, begin, end);
    }
  }
  nested_rows<S, CAPPED, SHARED>(a, begin, end);
}
template <class S, bool CAPPED, bool SHARED>
static void nested_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
  constexpr int W = Rows<S>::W;
  if (a.K == W) {
    return nested_tiles_backward<S, CAPPED, SHARED, W>(a, begin, end, sums, scratch);
  }
  if (a.K == W / 2) {
    return nested_tiles_backward<S, CAPPED, SHARED, W / 2>(a, begin, end, sums, scratch);
  }
  if constexpr (W >= 16) {
    if (a.K == W / 4) {
      return nested_tiles_backward<S, CAPPED, SHARED, W / 4>(a, begin, end, sums, scratch);
    }
  }
  nested_rows_backward<S, CAPPED, SHARED>(a, begin, end, sums, scratch);
}

}  // namespace

#define ORD_BY_TYPE(CALL)                 \
  switch (a.type) {                       \
    case DType::f32: CALL(float); break;  \
    case DType::f64: CALL(double); break; \
    case DType::bf16: CALL(bf16); break;  \
    default: CALL(f16);                   \
  }

void nested_min(const Args& a, int64_t begin, int64_t end) {
#define ORD_CALL(S)                                                                                    \
  a.capped ? (a.shared ? nested<S, true, true>(a, begin, end) : nested<S, true, false>(a, begin, end)) \
           : (a.shared ? nested<S, false, true>(a, begin, end) : nested<S, false, false>(a, begin, end))
  ORD_BY_TYPE(ORD_CALL)
#undef ORD_CALL
}

void nested_min_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
#define ORD_CALL(S)                                                                     \
  a.capped ? (a.shared ? nested_backward<S, true, true>(a, begin, end, sums, scratch)   \
                       : nested_backward<S, true, false>(a, begin, end, sums, scratch)) \
           : (a.shared ? nested_backward<S, false, true>(a, begin, end, sums, scratch)  \
                       : nested_backward<S, false, false>(a, begin, end, sums, scratch))
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
