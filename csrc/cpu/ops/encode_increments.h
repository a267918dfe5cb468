// encode_increments, forward and backward. Included once per instruction set.
#pragma once
#include "cpu/ops/increments_rows.h"

namespace ORD_ISA {
namespace {

// Lower edges of one row of widths, in the compute type.
template <class S, class T>
ORD_INLINE void lower_edges(const S* w, int64_t K, T* c) {
  T sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    c[k] = sum;
    sum += scalar(w[k]);
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
    low[l] = c[l % M];
    width[l] = scalar(w[l % M]);
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
    const V yr = splat(scalar(y[r]));
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
    const V yr = splat(scalar(y[r]));
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

}  // namespace

void encode_increments(const Args& a, int64_t begin, int64_t end, double* scratch) {
  a.type == DType::f64 ? encode_rows<double>(a, begin, end, scratch) : encode_rows<float>(a, begin, end, scratch);
}

void encode_increments_backward(const Args& a, int64_t begin, int64_t end, double* sums, double* scratch) {
  a.type == DType::f64 ? encode_rows_backward<double>(a, begin, end, sums, scratch)
                       : encode_rows_backward<float>(a, begin, end, sums, scratch);
}

}  // namespace ORD_ISA
