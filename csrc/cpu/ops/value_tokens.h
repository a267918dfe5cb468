// embedding_mixup and windowed_value. Included once per instruction set.
//
// A row's window is a run of rows of the table: W x E multiply-adds with the row's sums in registers. Its backward
// reads the table once more for the weights' gradients and, in the same pass, adds to the table's own.
#pragma once
#include "cpu/ops/value_tokens_full.h"

namespace ORD_ISA {
namespace {
namespace tokens {

struct Window {
  int64_t begin, end;
};
ORD_INLINE Window mixing_window(const Args& a, int64_t at) {
  if (at < a.first) {
    return {at, at + 1};
  }
  const int64_t lo = at - a.half, hi = at + a.half + 1;
  return {lo > a.first ? lo : a.first, hi < a.V ? hi : a.V};
}
ORD_INLINE Window value_window(const Args& a, int64_t at) {
  if (a.half < 0) {
    return {0, a.V};
  }
  const int64_t lo = at - a.half, hi = at + a.half + 1;
  return {lo > 0 ? lo : 0, hi < a.V ? hi : a.V};
}

// f.template operator()<C>(e) for runs of C vectors from column e on: eights, then 4, 2, 1.
template <class T, class F>
ORD_INLINE void runs(int64_t E, const F& f) {
  constexpr int W = kLanes<T>;
  int64_t e = 0, left = (E + W - 1) / W;
  for (; left >= 8; left -= 8, e += 8 * W) {
    f.template operator()<8>(e);
  }
  if (left & 4) {
    f.template operator()<4>(e), e += 4 * W;
  }
  if (left & 2) {
    f.template operator()<2>(e), e += 2 * W;
  }
  if (left & 1) {
    f.template operator()<1>(e);
  }
}

// ---- embedding_mixup

template <class S, class O>
ORD_INLINE void mixup_rows(const Args& a, int64_t begin, int64_t end, typename Traits<S>::T* p) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  constexpr int W = kLanes<T>;
  const S *x = (const S*)a.logits, *x_end = x + a.R * a.V;
  O* out = (O*)a.out;
  for (int64_t r = begin; r < end; ++r) {
    const S* row = x + r * a.V;
    O* to = out + r * a.E;
    const auto t = top(row, a.V, x_end);
    if (t.at < 0) {
      fill_nan(to, a.E);
      continue;
    }
    const Window w = mixing_window(a, t.at);
    const int64_t n = w.end - w.begin;
    const V norm = splat(1 / exps(row + w.begin, n, x_end, t.max, p));
    const T* table = (const T*)a.table + w.begin * a.P;
    runs<T>(a.E, [&]<int C>(int64_t e) __attribute__((always_inline)) {
      V sum[C] = {};
      const T* from = table + e;
      for (int64_t j = 0; j < n; ++j, from += a.P) {
        const V pj = splat(p[j]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c)
          sum[c] += pj * load(from + c * W);
      }
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const int64_t at = e + c * W;
        store(to + at, sum[c] * norm, a.E - at < W ? (int)(a.E - at) : W);
      }
    });
  }
}

// dp[j] += g . table[j] and, where asked for, part[j] += p[j] g, for the columns of C vectors.
template <int C, bool TABLE, class T>
ORD_INLINE void mixup_run(const T* p, T* dp, int64_t n, const T* g, const T* table, T* part, int64_t P) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  V gv[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    gv[c] = load(g + c * W);
  }
  for (int64_t j0 = 0; j0 < n; j0 += W) {
    const int m = n - j0 < W ? (int)(n - j0) : W;
    V dots[W] = {};
    for (int j = 0; j < m; ++j, table += P, part += TABLE ? P : 0) {
      const V pj = splat(p[j0 + j]);
      V dot{};
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        dot += gv[c] * load(table + c * W);
        if constexpr (TABLE) {
          store(part + c * W, load(part + c * W) + pj * gv[c]);
        }
      }
      dots[j] = dot;
    }
    store(dp + j0, load(dp + j0) + horizontal_sums(dots));
  }
}

template <class S, class O, bool TABLE>
ORD_INLINE void mixup_rows_backward(const Args& a, int64_t begin, int64_t end, typename Traits<S>::T* p,
                                    typename Traits<S>::T* part, double* sums) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  constexpr int W = kLanes<T>;
  const S *x = (const S*)a.logits, *x_end = x + a.R * a.V;
  const O *go = (const O*)a.g, *go_end = go + a.R * a.E;
  S* gx = (S*)a.g_logits;
  T *dp = p + padded(a.V + 16), *g = dp + padded(a.V + 16);
  const T* table = (const T*)a.table;
  int64_t low = a.V, high = 0;  // rows of `part` in use
  for (int64_t r = begin; r < end; ++r) {
    const S* row = x + r * a.V;
    const auto t = top(row, a.V, x_end);
    if (t.at < 0) {
      if (gx) {
        fill_nan(gx + r * a.V, a.V);
      }
      if (TABLE) {
        fill_nan(sums, a.V * a.P);
      }
      continue;
    }
    const Window w = mixing_window(a, t.at);
    const int64_t n = w.end - w.begin;
    scale(p, n, 1 / exps(row + w.begin, n, x_end, t.max, p));
    for (int64_t e = 0; e < a.E; e += W) {
      store(g + e, load(go + r * a.E + e, a.E - e < W ? (int)(a.E - e) : W, go_end));
    }
    for (int64_t j = 0; j < n; j += W) {
      store(dp + j, V{});
    }
    runs<T>(a.E, [&]<int C>(int64_t e) __attribute__((always_inline)) {
      mixup_run<C, TABLE>(p, dp, n, g + e, table + w.begin * a.P + e, TABLE ? part + w.begin * a.P + e : nullptr, a.P);
    });
    if (gx) {
      V mean{};
      for (int64_t j = 0; j < n; j += W) {
        mean += load(p + j) * load(dp + j);
      }
      const V m = splat(sum(mean));
      S* to = gx + r * a.V;
      fill_zero(to, w.begin);
      for_each_vector<T>(n, [&](int64_t j, int k) __attribute__((always_inline)) {
        store(to + w.begin + j, load(p + j) * (load(dp + j) - m), k);
      });
      fill_zero(to + w.end, a.V - w.end);
    }
    if (TABLE) {
      low = w.begin < low ? w.begin : low;
      high = w.end > high ? w.end : high;
      if ((r - begin) % kFlush == kFlush - 1) {
        flush(part + low * a.P, sums + low * a.P, (high - low) * a.P);
        low = a.V, high = 0;
      }
    }
  }
  if (TABLE && high > low) {
    flush(part + low * a.P, sums + low * a.P, (high - low) * a.P);
  }
}

// ---- windowed_value

// The part of a row's sum that lies in the window, p not yet normalised.
template <class T>
ORD_INLINE T inside(const T* p, const T* values, const T* values_end, Window w) {
  typename Traits<T>::V total{};
  for_each_vector<T>(w.end - w.begin, [&](int64_t j, int k) __attribute__((always_inline)) {
    total += load(p + w.begin + j, k, p + w.begin + j + kLanes<T>) * load(values + w.begin + j, k, values_end);
  });
  return sum(total);
}

template <class S, class O>
ORD_INLINE void value_rows(const Args& a, int64_t begin, int64_t end, typename Traits<S>::T* p) {
  using T = typename Traits<S>::T;
  const S *x = (const S*)a.logits, *x_end = x + a.R * a.V;
  const T* values = (const T*)a.table;
  O* out = (O*)a.out;
  for (int64_t r = begin; r < end; ++r) {
    const auto t = top(x + r * a.V, a.V, x_end);
    T y = (T)__builtin_nanf("");
    if (t.at >= 0) {
      const T total = exps(x + r * a.V, a.V, x_end, t.max, p);
      y = inside(p, values, values + a.P, value_window(a, t.at)) / total;
    }
    store(out + r, splat(y), 1);
  }
}

template <class S, class O, bool TABLE>
ORD_INLINE void value_rows_backward(const Args& a, int64_t begin, int64_t end, typename Traits<S>::T* p, double* sums) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using I = typename Traits<S>::I;
  using L = decltype(I{}[0] + 0);
  constexpr int W = kLanes<T>;
  const S *x = (const S*)a.logits, *x_end = x + a.R * a.V;
  const T* values = (const T*)a.table;
  const O* go = (const O*)a.g;
  S* gx = (S*)a.g_logits;
  for (int64_t r = begin; r < end; ++r) {
    const auto t = top(x + r * a.V, a.V, x_end);
    if (t.at < 0) {
      if (gx) {
        fill_nan(gx + r * a.V, a.V);
      }
      if (TABLE) {
        fill_nan(sums, a.V);
      }
      continue;
    }
    const T total = exps(x + r * a.V, a.V, x_end, t.max, p), g = number(go[r]);
    const Window w = value_window(a, t.at);
    if (gx) {
      const V y = splat(inside(p, values, values + a.P, w) / total), by = splat(g / total);
      S* to = gx + r * a.V;
      for (int64_t j = 0; j < a.V; j += W) {
        const I here = lanes(V{}) + (L)j;
        const V v = (I)(here >= (L)w.begin) & (I)(here < (L)w.end) ? load(values + j) : V{};
        store(to + j, by * load(p + j) * (v - y), a.V - j < W ? (int)(a.V - j) : W);
      }
    }
    if (TABLE) {
      const double by = (double)g / (double)total;
      for (int64_t j = w.begin; j < w.end; ++j) {
        sums[j] += by * (double)p[j];
      }
    }
  }
}

template <class F>
ORD_INLINE void by_type(const Args& a, const F& f) {
  switch (a.type) {
    case DType::f32: return f(float{}, float{});
    case DType::f64: return f(double{}, double{});
    case DType::bf16: return a.wide ? f(bf16{}, float{}) : f(bf16{}, bf16{});
    default: return a.wide ? f(f16{}, float{}) : f(f16{}, f16{});
  }
}

}  // namespace tokens
}  // namespace

void embedding_mixup(const value_tokens::Args& a, int64_t begin, int64_t end, void* scratch) {
  tokens::by_type(a, [&]<class S, class O>(S, O) {
    using T = typename Traits<S>::T;
    a.half < 0 ? tokens::full_rows<S, O>(a, begin, end, (T*)scratch)
               : tokens::mixup_rows<S, O>(a, begin, end, (T*)scratch);
  });
}

void embedding_mixup_backward(const value_tokens::Args& a, int64_t begin, int64_t end, void* scratch, void* part,
                              double* sums) {
  tokens::by_type(a, [&]<class S, class O>(S, O) {
    using T = typename Traits<S>::T;
    if (a.half < 0) {
      tokens::full_rows_backward<S, O>(a, begin, end, (T*)scratch, (T*)part, sums);
    } else if (sums) {
      tokens::mixup_rows_backward<S, O, true>(a, begin, end, (T*)scratch, (T*)part, sums);
    } else {
      tokens::mixup_rows_backward<S, O, false>(a, begin, end, (T*)scratch, nullptr, nullptr);
    }
  });
}

void windowed_value(const value_tokens::Args& a, int64_t begin, int64_t end, void* scratch) {
  tokens::by_type(
      a, [&]<class S, class O>(S, O) { tokens::value_rows<S, O>(a, begin, end, (typename Traits<S>::T*)scratch); });
}

void windowed_value_backward(const value_tokens::Args& a, int64_t begin, int64_t end, void* scratch, double* sums) {
  tokens::by_type(a, [&]<class S, class O>(S, O) {
    using T = typename Traits<S>::T;
    if (sums) {
      tokens::value_rows_backward<S, O, true>(a, begin, end, (T*)scratch, sums);
    } else {
      tokens::value_rows_backward<S, O, false>(a, begin, end, (T*)scratch, nullptr);
    }
  });
}

}  // namespace ORD_ISA
