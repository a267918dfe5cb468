// embedding_mixup over the whole vocabulary: every row mixes the same table, so blocks of rows are matrix products.
#pragma once
#include "cpu/ops/value_tokens_math.h"

namespace ORD_ISA {
namespace {
namespace tokens {

using value_tokens::kTile;

// to[i][0, N W) = (add: itself +) sum_k a[i ai + k ak] b[k][0, N W), for M rows i.
template <int M, int N, class T>
ORD_INLINE void product_tile(const T* a, int64_t ai, int64_t ak, int64_t K, const T* b, int64_t bk, T* to, int64_t ti,
                             bool add) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  V sum[M][N] = {};
  if (add)
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sum[i][n] = load(to + i * ti + n * W);
      }
  for (int64_t k = 0; k < K; ++k, a += ak, b += bk) {
    V x[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      x[n] = load(b + n * W);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const V s = splat(a[i * ai]);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        sum[i][n] += s * x[n];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      store(to + i * ti + n * W, sum[i][n]);
    }
}

// rows x columns, columns a multiple of 16.
template <class T>
static void product(int64_t rows, int64_t columns, const T* a, int64_t ai, int64_t ak, int64_t K, const T* b,
                    int64_t bk, T* to, int64_t ti, bool add) {
  constexpr int W = kLanes<T>;
  int64_t c = 0;
  const auto down = [&]<int N>() __attribute__((always_inline)) {
    int64_t i = 0;
    for (; i + kTile <= rows; i += kTile) {
      product_tile<kTile, N>(a + i * ai, ai, ak, K, b + c, bk, to + i * ti + c, ti, add);
    }
    for (; i < rows; ++i) {
      product_tile<1, N>(a + i * ai, ai, ak, K, b + c, bk, to + i * ti + c, ti, add);
    }
  };
  for (; c + 2 * W <= columns; c += 2 * W) {
    down.template operator()<2>();
  }
  if (c < columns) {
    down.template operator()<1>();
  }
}

// p [n, Q], zeros in the padding; a row without a softmax is all zeros. Says which those are.
template <class S, class T>
static void softmaxes(const Args& a, int64_t r, int64_t n, T* p, bool* bad) {
  const S *x = (const S*)a.logits, *end = x + a.R * a.V;
  const int64_t Q = padded(a.V);
  for (int64_t i = 0; i < n; ++i, p += Q) {
    const S* row = x + (r + i) * a.V;
    const auto t = top(row, a.V, end);
    bad[i] = t.at < 0;
    fill_zero(p, Q);
    if (!bad[i]) {
      scale(p, a.V, 1 / exps(row, a.V, end, t.max, p));
    }
  }
}

template <class S, class O>
ORD_INLINE void full_rows(const Args& a, int64_t begin, int64_t end, typename Traits<S>::T* p) {
  using T = typename Traits<S>::T;
  constexpr int W = kLanes<T>;
  const int64_t Q = padded(a.V);
  T* mixed = p + a.block * Q;
  bool bad[value_tokens::kBlock];
  for (int64_t r = begin; r < end; r += a.block) {
    const int64_t n = end - r < a.block ? end - r : a.block;
    softmaxes<S>(a, r, n, p, bad);
    product<T>(n, a.P, p, Q, 1, a.V, (const T*)a.table, a.P, mixed, a.P, false);
    for (int64_t i = 0; i < n; ++i) {
      O* to = (O*)a.out + (r + i) * a.E;
      if (bad[i]) {
        fill_nan(to, a.E);
      } else {
        for (int64_t e = 0; e < a.E; e += W) {
          store(to + e, load(mixed + i * a.P + e), a.E - e < W ? (int)(a.E - e) : W);
        }
      }
    }
  }
}

template <class S, class O>
ORD_INLINE void full_rows_backward(const Args& a, int64_t begin, int64_t end, typename Traits<S>::T* p,
                                   typename Traits<S>::T* part, double* sums) {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  constexpr int W = kLanes<T>;
  const int64_t Q = padded(a.V);
  T *dp = p + a.block * Q, *g = dp + a.block * Q;
  S* gx = (S*)a.g_logits;
  const O *go = (const O*)a.g, *go_end = go + a.R * a.E;
  bool bad[value_tokens::kBlock];
  int64_t unflushed = 0;
  for (int64_t r = begin; r < end; r += a.block) {
    const int64_t n = end - r < a.block ? end - r : a.block;
    softmaxes<S>(a, r, n, p, bad);
    for (int64_t i = 0; i < n; ++i) {
      fill_zero(g + i * a.P, a.P);
      if (bad[i]) {
        if (sums) {
          fill_nan(sums, a.V * a.P);
        }
        continue;
      }
      for (int64_t e = 0; e < a.E; e += W) {
        store(g + i * a.P + e, load(go + (r + i) * a.E + e, a.E - e < W ? (int)(a.E - e) : W, go_end));
      }
    }
    if (gx) {
      product<T>(n, Q, g, a.P, 1, a.E, (const T*)a.transposed, Q, dp, Q, false);
      for (int64_t i = 0; i < n; ++i) {
        S* to = gx + (r + i) * a.V;
        if (bad[i]) {
          fill_nan(to, a.V);
          continue;
        }
        const T *pi = p + i * Q, *di = dp + i * Q;
        V mean{};
        for (int64_t j = 0; j < a.V; j += W) {
          mean += load(pi + j) * load(di + j);
        }
        const V m = splat(sum(mean));
        for_each_vector<T>(a.V, [&](int64_t j, int k) __attribute__((always_inline)) {
          store(to + j, load(pi + j) * (load(di + j) - m), k);
        });
      }
    }
    if (sums) {
      product<T>(a.V, a.P, p, 1, Q, n, g, a.P, part, a.P, true);
      unflushed += n;
      if (unflushed >= kFlush) {
        flush(part, sums, a.V * a.P), unflushed = 0;
      }
    }
  }
  if (sums && unflushed) {
    flush(part, sums, a.V * a.P);
  }
}

}  // namespace tokens
}  // namespace
}  // namespace ORD_ISA
