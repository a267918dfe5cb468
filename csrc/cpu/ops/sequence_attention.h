// Attention within one sequence, forward and backward: queries lie in the lanes of vectors, so neither the softmax nor
// its gradient sums across lanes.
#pragma once
#include "cpu/gemm/row_product.h"
#include "cpu/ops/sequence_layer_args.h"

namespace ORD_ISA {
namespace {

#define ORD_TARGET
#include "cpu/simd/transpose.h"
#undef ORD_TARGET

// rows [n, columns] -> their transpose, `to_row` apart, zeros behind n up to whole vectors.
template <class T>
__attribute__((noinline)) static void transpose_rows(const T* from, int64_t row, int64_t n, int64_t columns, T* to,
                                                     int64_t to_row) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  for (int64_t i = 0; i < n; i += W) {
    for (int64_t d = 0; d < columns; d += W) {
      const int lanes = columns - d < W ? (int)(columns - d) : W;
      V v[W];
      for (int r = 0; r < W; ++r) {
        const T* const p = from + (i + r) * row + d;
        v[r] = i + r < n ? load(p, lanes, p + lanes) : V{};
      }
      transpose<1, W>(v);
      for (int k = 0; k < lanes; ++k) {
        store(to + (d + k) * to_row + i, v[k]);
      }
    }
  }
}

// One sequence of L tokens, head after head; rows of q, k, v are `row` apart.
template <class T>
struct Attention {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;

  int64_t heads, width;  // of a head
  bool causal;
  T scale;
  T *transposed, *p, *dp;  // [width][queries], [keys][queries]: scratch

  Attention(int64_t heads, int64_t width, bool causal, int64_t longest, T* scratch)
      : heads(heads), width(width), causal(causal), scale((T)(1 / __builtin_sqrt((double)width))), transposed(scratch) {
    const int64_t queries = round_to_lanes(longest);
    p = transposed + (width + 16) * queries;
    dp = p + longest * queries;
  }

  static int64_t padded(int64_t L) { return (L + W - 1) / W * W; }

  // p [L keys][queries] = softmax over the keys.
  __attribute__((noinline)) void probabilities(int64_t L, const T* q, const T* k, int64_t row) const {
    const int64_t Q = padded(L);
    transpose_rows(q, row, L, width, transposed, Q);
    multiply_rows<T>(L, Q, {k, row, 1, transposed, Q, p, Q, width, RowStart::zero});
    for (int64_t i = 0; i < Q; i += W) {
      V top = V{} - (T)__builtin_inff(), sum = {};
      for (int64_t j = 0; j < L; ++j) {
        V s = load(p + j * Q + i);
        if (causal && j > i) {  // queries before j do not see it
          const int hidden = j - i < W ? (int)(j - i) : W;
          s = first_lanes(hidden, V{}) ? V{} - (T)__builtin_inff() : s;
          store(p + j * Q + i, s);
        }
        top = s > top ? s : top;
      }
      for (int64_t j = 0; j < L; ++j) {
        V e, em1;
        const V d = (load(p + j * Q + i) - top) * scale;
        exp_neg(d, e, em1);
        sum += e;
        store(p + j * Q + i, e);
      }
      const V share = (T)1 / sum;
      for (int64_t j = 0; j < L; ++j) {
        store(p + j * Q + i, load(p + j * Q + i) * share);
      }
    }
  }

  // qkv [L, 3 D] -> the heads' outputs [L, D].
  void forward(int64_t L, const T* qkv, T* out) const {
    const int64_t D = heads * width, row = 3 * D, Q = padded(L);
    if (L == 1) {
      return single(qkv, out);
    }
    for (int64_t h = 0; h < heads; ++h) {
      const T *const q = qkv + h * width, *const k = q + D, *const v = k + D;
      probabilities(L, q, k, row);
      multiply_rows<T>(L, width, {p, 1, Q, v, row, out + h * width, D, L, RowStart::zero});
    }
  }

  // A softmax over one key is 1, but NaN where the product of query and key is no finite number: that, less 1.
  T spoilt(const T* q, const T* k, int64_t h) const {
    T s = 0;
    for (int64_t d = h * width; d < (h + 1) * width; ++d) {
      s += q[d] * k[d];
    }
    return s - s;
  }
  void single(const T* qkv, T* out) const {
    for (int64_t h = 0; h < heads; ++h) {
      const T zero = spoilt(qkv, qkv + heads * width, h);
      for (int64_t d = h * width; d < (h + 1) * width; ++d) {
        out[d] = qkv[2 * heads * width + d] + zero;
      }
    }
  }
  void single_backward(const T* qkv, const T* g, T* dqkv) const {
    const int64_t D = heads * width;
    for (int64_t h = 0; h < heads; ++h) {
      const T zero = spoilt(qkv, qkv + D, h), slope = zero + spoilt(g, qkv + 2 * D, h);
      for (int64_t d = h * width; d < (h + 1) * width; ++d) {
        dqkv[d] = dqkv[D + d] = slope;
        dqkv[2 * D + d] = g[d] + zero;
      }
    }
  }

  // The gradient g [L, D] of the outputs -> that of qkv, and the outputs once more.
  void backward(int64_t L, const T* qkv, const T* g, T* dqkv, T* out) const {
    const int64_t D = heads * width, row = 3 * D, Q = padded(L);
    if (L == 1) {
      single(qkv, out);
      return single_backward(qkv, g, dqkv);
    }
    for (int64_t h = 0; h < heads; ++h) {
      const T *const q = qkv + h * width, *const k = q + D, *const v = k + D, *const go = g + h * width;
      T *const dq = dqkv + h * width, *const dk = dq + D, *const dv = dk + D;
      probabilities(L, q, k, row);
      multiply_rows<T>(L, width, {p, 1, Q, v, row, out + h * width, D, L, RowStart::zero});
      transpose_rows(go, D, L, width, transposed, Q);
      multiply_rows<T>(L, Q, {v, row, 1, transposed, Q, dp, Q, width, RowStart::zero});
      multiply_rows<T>(L, width, {p, Q, 1, go, D, dv, row, L, RowStart::zero});
      softmax_backward(L, Q);
      multiply_rows<T>(L, width, {dp, Q, 1, q, row, dk, row, L, RowStart::zero});
      multiply_rows<T>(L, width, {dp, 1, Q, k, row, dq, row, L, RowStart::zero});
    }
  }

  // dp: of the probabilities -> of the products of queries and keys.
  __attribute__((noinline)) void softmax_backward(int64_t L, int64_t Q) const {
    for (int64_t i = 0; i < Q; i += W) {
      V mean = {};
      for (int64_t j = 0; j < L; ++j) {
        mean += load(p + j * Q + i) * load(dp + j * Q + i);
      }
      for (int64_t j = 0; j < L; ++j) {
        const int64_t at = j * Q + i;
        store(dp + at, (load(dp + at) - mean) * load(p + at) * scale);
      }
    }
  }
};

}  // namespace
}  // namespace ORD_ISA
