// embedding_mixup: the softmax-weighted mixture of the embeddings of the tokens in a window around the most likely one.
// Included once per instruction set.
//
// A row's window is a run of rows of the table: W x E multiply-adds with the row's sums in registers. Its backward
// reads the table once more for the weights' gradients and, in the same pass, adds to the table's own.
#pragma once
#include "cpu/ops/embedding_mixup_full.h"

namespace ORD_ISA {
namespace {

ORD_INLINE Window mixing_window(const TokenArgs& a, int64_t at) {
  if (at < a.first) {
    return {at, at + 1};
  }
  const int64_t lo = at - a.half, hi = at + a.half + 1;
  return {lo > a.first ? lo : a.first, hi < a.V ? hi : a.V};
}

// f.template operator()<C>(e) for runs of C vectors from column e on: eights, then 4, 2, 1.
template <class T, class F>
ORD_INLINE void for_each_run(int64_t E, const F& f) {
  constexpr int W = kLanes<T>;
  int64_t e = 0, left = (E + W - 1) / W;
  for (; left >= 8; left -= 8, e += 8 * W) {
    f.template operator()<8>(e);
  }
  if (left & 4) {
    f.template operator()<4>(e);
    e += 4 * W;
  }
  if (left & 2) {
    f.template operator()<2>(e);
    e += 2 * W;
  }
  if (left & 1) {
    f.template operator()<1>(e);
  }
}

// to [E] = sum_j p[j] table[j] by `norm`, over n rows of the table.
template <class T>
static void mix_row(const TokenArgs& a, const T* p, int64_t n, const T* table, T norm, T* to) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  for_each_run<T>(a.E, [&]<int C>(int64_t e) __attribute__((always_inline)) {
    V sum[C] = {};
    const T* from = table + e;
    for (int64_t j = 0; j < n; ++j, from += a.P) {
      const V pj = splat(p[j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        sum[c] += pj * load(from + c * W);
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const int64_t at = e + c * W;
      store(to + at, sum[c] * splat(norm), a.E - at < W ? (int)(a.E - at) : W);
    }
  });
}

template <class T>
static void mixup_rows(const TokenArgs& a, int64_t begin, int64_t end, T* p) {
  T *const x_buffer = p + padded(a.V + 16), *const buffer = x_buffer + padded(a.V + 16);
  for (int64_t r = begin; r < end; ++r) {
    const Elements<T> x = logits_of(a, r, x_buffer);
    T* const to = place_for(a.value_type, a.out, r * a.E, buffer);
    const Largest<T> top = largest_of(x, a.V);
    if (top.at < 0) {
      fill_nan(to, a.E);
    } else {
      const Window w = mixing_window(a, top.at);
      const int64_t n = w.end - w.begin;
      const T total = exponentials(x.from(w.begin), n, top.value, p);
      mix_row(a, p, n, (const T*)a.table + w.begin * a.P, 1 / total, to);
    }
    write_elements(a.value_type, buffer, a.out, r * a.E, a.E);
  }
}

// dp[j] += g . table[j] and, where `part` is not null, part[j] += p[j] g, for the columns of C vectors.
template <int C, class T>
ORD_INLINE void mixup_run_backward(const T* p, T* dp, int64_t n, const T* g, const T* table, T* part, int64_t P) {
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
    for (int j = 0; j < m; ++j, table += P) {
      V dot{};
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        dot += gv[c] * load(table + c * W);
      }
      dots[j] = dot;
      if (part) {
        const V pj = splat(p[j0 + j]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          store(part + c * W, load(part + c * W) + pj * gv[c]);
        }
        part += P;
      }
    }
    store(dp + j0, load(dp + j0) + horizontal_sums(dots));
  }
}

// g_logits = p (dp - sum p dp) in the window, zero outside.
template <class T>
static void window_gradient(const TokenArgs& a, const T* p, const T* dp, Window w, T* to) {
  using V = typename Traits<T>::V;
  const int64_t n = w.end - w.begin;
  V mean{};
  for (int64_t j = 0; j < n; j += kLanes<T>) {
    mean += load(p + j) * load(dp + j);
  }
  const V m = splat(sum(mean));
  fill_zero(to, w.begin);
  for_each_vector<T>(n, [&](int64_t j, int lanes) __attribute__((always_inline)) {
    store(to + w.begin + j, load(p + j) * (load(dp + j) - m), lanes);
  });
  fill_zero(to + w.end, a.V - w.end);
}

// part, sums: of the table's gradient, or null.
template <class T>
static void mixup_rows_backward(const TokenArgs& a, int64_t begin, int64_t end, T* p, T* part, double* sums) {
  constexpr int W = kLanes<T>;
  const int64_t row = padded(a.V + 16);
  T *const dp = p + row, *const x_buffer = dp + row, *const g_logits_buffer = x_buffer + row,
           *const g = g_logits_buffer + row, *const g_buffer = g + padded(a.E + 16);
  const T* const table = (const T*)a.table;
  int64_t low = a.V, high = 0;  // rows of `part` in use
  for (int64_t r = begin; r < end; ++r) {
    const Elements<T> x = logits_of(a, r, x_buffer);
    T* const g_logits = place_for(a.type, a.g_logits, r * a.V, g_logits_buffer);
    const Largest<T> top = largest_of(x, a.V);
    if (top.at < 0) {
      if (g_logits) {
        fill_nan(g_logits, a.V);
      }
      if (sums) {
        fill_nan(sums, a.V * a.P);
      }
    } else {
      const Window w = mixing_window(a, top.at);
      const int64_t n = w.end - w.begin;
      scale(p, n, 1 / exponentials(x.from(w.begin), n, top.value, p));
      const Elements<T> from = read_elements<T>(a.value_type, a.g, r * a.E, a.E, a.R * a.E, g_buffer);
      for (int64_t e = 0; e < a.E; e += W) {
        store(g + e, from.at(e, a.E - e < W ? (int)(a.E - e) : W));
      }
      for (int64_t j = 0; j < n; j += W) {
        store(dp + j, typename Traits<T>::V{});
      }
      for_each_run<T>(a.E, [&]<int C>(int64_t e) __attribute__((always_inline)) {
        mixup_run_backward<C>(p, dp, n, g + e, table + w.begin * a.P + e, part ? part + w.begin * a.P + e : nullptr,
                              a.P);
      });
      if (g_logits) {
        window_gradient(a, p, dp, w, g_logits);
      }
      low = w.begin < low ? w.begin : low;
      high = w.end > high ? w.end : high;
    }
    write_elements(a.type, g_logits_buffer, a.g_logits, r * a.V, a.V);
    if (sums && high > low && (r + 1 == end || (r - begin) % kFlushRows == kFlushRows - 1)) {
      flush(part + low * a.P, sums + low * a.P, (high - low) * a.P);
      low = a.V;
      high = 0;
    }
  }
}

}  // namespace

void embedding_mixup(const TokenArgs& a, int64_t begin, int64_t end, void* scratch) {
  const auto rows = [&]<class T>(T* s) { a.half < 0 ? full_rows(a, begin, end, s) : mixup_rows(a, begin, end, s); };
  a.type == DType::f64 ? rows((double*)scratch) : rows((float*)scratch);
}

void embedding_mixup_backward(const TokenArgs& a, int64_t begin, int64_t end, void* scratch, void* part, double* sums) {
  const auto rows = [&]<class T>(T* s) {
    a.half < 0 ? full_rows_backward(a, begin, end, s, (T*)part, sums)
               : mixup_rows_backward(a, begin, end, s, (T*)part, sums);
  };
  a.type == DType::f64 ? rows((double*)scratch) : rows((float*)scratch);
}

}  // namespace ORD_ISA
