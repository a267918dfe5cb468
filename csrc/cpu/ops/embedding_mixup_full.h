// embedding_mixup over the whole vocabulary: every row mixes the same table, so blocks of rows are matrix products.
#pragma once
#include "cpu/ops/token_window.h"

namespace ORD_ISA {
namespace {

using tokens::kStripRows;

// A matrix [rows, columns] with any strides.
template <class T>
struct Strided {
  const T* p;
  int64_t row, column;
};

// to[i][0, N W) = (add: itself +) sum_k a[i][k] b[k][0, N W), for M rows i of `to` and K rows of b.
template <int M, int N, class T>
ORD_INLINE void product_tile(Strided<T> a, int64_t K, const T* b, int64_t b_row, T* to, int64_t to_row, bool add) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  V sum[M][N] = {};
  if (add) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sum[i][n] = load(to + i * to_row + n * W);
      }
    }
  }
  for (int64_t k = 0; k < K; ++k, a.p += a.column, b += b_row) {
    V x[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      x[n] = load(b + n * W);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const V s = splat(a.p[i * a.row]);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sum[i][n] += s * x[n];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      store(to + i * to_row + n * W, sum[i][n]);
    }
  }
}

// to [rows, columns] = (add: itself +) a b, columns a multiple of 16.
template <class T>
static void product(int64_t rows, int64_t columns, Strided<T> a, int64_t K, const T* b, int64_t b_row, T* to,
                    bool add) {
  constexpr int W = kLanes<T>;
  const int64_t to_row = columns;
  int64_t c = 0;
  const auto down = [&]<int N>() __attribute__((always_inline)) {
    int64_t i = 0;
    for (; i + kStripRows <= rows; i += kStripRows) {
      product_tile<kStripRows, N, T>({a.p + i * a.row, a.row, a.column}, K, b + c, b_row, to + i * to_row + c, to_row,
                                     add);
    }
    for (; i < rows; ++i) {
      product_tile<1, N, T>({a.p + i * a.row, a.row, a.column}, K, b + c, b_row, to + i * to_row + c, to_row, add);
    }
  };
  for (; c + 2 * W <= columns; c += 2 * W) {
    down.template operator()<2>();
  }
  if (c < columns) {
    down.template operator()<1>();
  }
}

// p [n, padded V], zeros in the padding; a row without a softmax is all zeros, and `invalid`.
template <class T>
static void softmaxes(const TokenArgs& a, int64_t r, int64_t n, T* p, T* buffer, bool* invalid) {
  const int64_t Q = padded(a.V);
  for (int64_t i = 0; i < n; ++i, p += Q) {
    const Elements<T> x = logits_of(a, r + i, buffer);
    const Largest<T> top = largest_of(x, a.V);
    invalid[i] = top.at < 0;
    fill_zero(p, Q);
    if (!invalid[i]) {
      scale(p, a.V, 1 / exponentials(x, a.V, top.value, p));
    }
  }
}

template <class T>
static void full_rows(const TokenArgs& a, int64_t begin, int64_t end, T* p) {
  const int64_t Q = padded(a.V);
  T *const mixed = p + a.block * Q, *const buffer = mixed + a.block * (Q + a.P);
  bool invalid[tokens::kBlockRows];
  for (int64_t r = begin; r < end; r += a.block) {
    const int64_t n = end - r < a.block ? end - r : a.block;
    softmaxes(a, r, n, p, buffer, invalid);
    product<T>(n, a.P, {p, Q, 1}, a.V, (const T*)a.table, a.P, mixed, false);
    for (int64_t i = 0; i < n; ++i) {
      T* const row = mixed + i * a.P;
      if (invalid[i]) {
        fill_nan(row, a.E);
      }
      if (is_half(a.value_type)) {
        write_elements(a.value_type, row, a.out, (r + i) * a.E, a.E);
      } else {
        __builtin_memcpy((T*)a.out + (r + i) * a.E, row, a.E * sizeof(T));
      }
    }
  }
}

// g_logits = p (dp - sum p dp) of n rows of a block.
template <class T>
static void softmax_gradients(const TokenArgs& a, int64_t r, int64_t n, const T* p, T* dp, const bool* invalid) {
  using V = typename Traits<T>::V;
  for (int64_t i = 0; i < n; ++i, p += padded(a.V), dp += padded(a.V)) {
    T* const to = place_for(a.type, a.g_logits, (r + i) * a.V, dp);
    if (invalid[i]) {
      fill_nan(to, a.V);
    } else {
      V mean{};
      for (int64_t j = 0; j < a.V; j += kLanes<T>) {
        mean += load(p + j) * load(dp + j);
      }
      const V m = splat(sum(mean));
      for_each_vector<T>(a.V, [&](int64_t j, int lanes) __attribute__((always_inline)) {
        store(to + j, load(p + j) * (load(dp + j) - m), lanes);
      });
    }
    write_elements(a.type, dp, a.g_logits, (r + i) * a.V, a.V);
  }
}

template <class T>
static void full_rows_backward(const TokenArgs& a, int64_t begin, int64_t end, T* p, T* part, double* sums) {
  const int64_t Q = padded(a.V);
  T *const dp = p + a.block * Q, *const g = dp + a.block * Q, *const buffer = g + a.block * a.P;
  bool invalid[tokens::kBlockRows];
  int64_t unflushed = 0;
  for (int64_t r = begin; r < end; r += a.block) {
    const int64_t n = end - r < a.block ? end - r : a.block;
    softmaxes(a, r, n, p, buffer, invalid);
    for (int64_t i = 0; i < n; ++i) {
      T* const row = g + i * a.P;
      fill_zero(row, a.P);
      if (!invalid[i]) {
        const Elements<T> from = read_elements<T>(a.value_type, a.g, (r + i) * a.E, a.E, a.R * a.E, buffer);
        __builtin_memcpy(row, from.p, a.E * sizeof(T));
      } else if (sums) {
        fill_nan(sums, a.V * a.P);
      }
    }
    if (a.g_logits) {
      product<T>(n, Q, {g, a.P, 1}, a.E, (const T*)a.transposed, Q, dp, false);
      softmax_gradients(a, r, n, p, dp, invalid);
    }
    if (sums) {
      product<T>(a.V, a.P, {p, 1, Q}, n, g, a.P, part, true);
      unflushed += n;
      if (unflushed >= kFlushRows) {
        flush(part, sums, a.V * a.P);
        unflushed = 0;
      }
    }
  }
  if (sums && unflushed) {
    flush(part, sums, a.V * a.P);
  }
}

}  // namespace
}  // namespace ORD_ISA
