// Attention within many short sequences at once, a lane of the vectors each: no lane is empty where a sequence has
// fewer tokens, or a head fewer columns, than a vector has lanes. Every sum runs in the order of sequence_attention.h,
// so a sequence's bits are the same in both.
#pragma once
#include "cpu/ops/sequence_attention.h"

namespace ORD_ISA {
namespace {

// At most a lane's worth of sequences each: where they begin, in tokens, and how long they are.
template <class T>
struct LaneSequences {
  static constexpr int W = kLanes<T>;
  int n = 0;
  int64_t longest = 0, shortest = kLongestInLanes;
  int64_t first[W], length[W];

  void add(int64_t at, int64_t L) {
    first[n] = at;
    length[n++] = L;
    longest = L > longest ? L : longest;
    shortest = L < shortest ? L : shortest;
  }
};

// Of vectors: how many lie between the next row's and the next column's.
template <class T>
struct LaneMatrix {
  T* p;
  int64_t row, column;
};

// c [M, N] = a [M, K] b [K, N] in every lane.
template <class T, int M, int N>
ORD_INLINE void lane_block(int64_t K, const LaneMatrix<T>& a, const LaneMatrix<T>& b, const LaneMatrix<T>& c) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  V sums[M][N] = {};
  for (int64_t k = 0; k < K; ++k) {
    V column[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      column[n] = load(b.p + (k * b.row + n * b.column) * W);
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const V x = load(a.p + (m * a.row + k * a.column) * W);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        sums[m][n] += x * column[n];
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      store(c.p + (m * c.row + n * c.column) * W, sums[m][n]);
    }
}
// f(Constant<size>) for blocks of n: with four by four, or three by three, the sums and what they need fit in
// registers.
template <class F>
ORD_INLINE void lane_blocks(int64_t n, const F& f) {
  constexpr int kMost = ORD_BYTES == 64 ? 4 : 3;
  for (; n >= kMost; n -= kMost) {
    f(Constant<kMost>{});
  }
  if (n >= 2) {
    f(Constant<2>{});
    n -= 2;
  }
  if (n >= 1) {
    f(Constant<1>{});
  }
}
template <class T, int M>
__attribute__((noinline)) static void lane_rows(int64_t N, int64_t K, LaneMatrix<T> a, LaneMatrix<T> b,
                                                LaneMatrix<T> c) {
  lane_blocks(N, [&](auto n) __attribute__((always_inline)) {
    lane_block<T, M, decltype(n)::value>(K, a, b, c);
    b.p += decltype(n)::value * b.column * kLanes<T>;
    c.p += decltype(n)::value * c.column * kLanes<T>;
  });
}
template <class T>
static void multiply_lanes(int64_t M, int64_t N, int64_t K, LaneMatrix<T> a, const LaneMatrix<T>& b, LaneMatrix<T> c) {
  lane_blocks(M, [&](auto m) __attribute__((always_inline)) {
    lane_rows<T, decltype(m)::value>(N, K, a, b, c);
    a.p += decltype(m)::value * a.row * kLanes<T>;
    c.p += decltype(m)::value * c.row * kLanes<T>;
  });
}

template <class T>
struct LaneAttention {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;

  int64_t heads, width;  // of a head
  bool causal;
  T scale;
  // Of the heads that are transposed together: queries, keys and values [tokens][their columns], the same of gradients,
  // and of one head the probabilities and their gradient [queries][keys].
  int64_t together, columns;
  T *q, *k, *v, *out, *go, *dq, *dk, *dv, *p, *dp;

  LaneAttention(int64_t heads, int64_t width, bool causal, int64_t longest, T* room)
      : heads(heads),
        width(width),
        causal(causal),
        scale((T)(1 / __builtin_sqrt((double)width))),
        together(lane_attention_heads(W, width)),
        columns(together * width) {
    const auto take = [&](int64_t vectors) {
      T* const from = room;
      room += vectors * W;
      return from;
    };
    const int64_t n = longest < kLongestInLanes ? longest : kLongestInLanes;
    T** const matrices[] = {&q, &k, &v, &out, &go, &dq, &dk, &dv};
    for (T** to : matrices) {
      *to = take(n * columns);
    }
    p = take(n * n);
    dp = take(n * n);
  }

  // Vector operations that these sequences take here, and one by one.
  bool pays(const LaneSequences<T>& s) const {
    int64_t apart = 0;
    for (int r = 0; r < s.n; ++r) {
      const int64_t L = s.length[r];
      apart += L * width * ((L + W - 1) / W) + L * L * ((width + W - 1) / W);
    }
    return apart > 2 * s.longest * s.longest * width;
  }

  // `count` columns from `at` of the sequences' rows -> [tokens][count], zeros behind a sequence's last token.
  void gather(const LaneSequences<T>& s, const T* from, int64_t row, int64_t at, int64_t count, T* to) const {
    int64_t c = 0;
    for (; c + W <= count; c += W) {
      gather_columns<false>(s, from + at + c, row, count, W, to + c * W);
    }
    if (c < count) {
      gather_columns<true>(s, from + at + c, row, count, (int)(count - c), to + c * W);
    }
  }
  template <bool kTail>
  __attribute__((noinline)) void gather_columns(const LaneSequences<T>& s, const T* from, int64_t row, int64_t count,
                                                int lanes, T* to) const {
    static const T zeros[W] = {};
    const T* rows[W];
    for (int r = 0; r < W; ++r) {
      rows[r] = r < s.n ? from + s.first[r] * row : zeros;
    }
    for (int64_t j = 0; j < s.longest; ++j) {
      V v[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) {
        v[r] = kTail ? load(rows[r], lanes, rows[r] + lanes) : load(rows[r]);
      }
      transpose<1, W>(v);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        if (!kTail || i < lanes) {
          store(to + (j * count + i) * W, v[i]);
        }
      }
      if (j + 1 < s.shortest && s.n == W) {
        for (int r = 0; r < W; ++r) {
          rows[r] += row;
        }
      } else {
        for (int r = 0; r < W; ++r) {
          rows[r] = r < s.n && j + 1 < s.length[r] ? rows[r] + row : zeros;
        }
      }
    }
  }
  __attribute__((noinline)) void scatter(const LaneSequences<T>& s, const T* from, int64_t count, T* to, int64_t row,
                                         int64_t at) const {
    for (int64_t j = 0; j < s.longest; ++j) {
      for (int64_t c = 0; c < count; c += W) {
        const int lanes = count - c < W ? (int)(count - c) : W;
        V rows[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
          rows[i] = i < lanes ? load(from + (j * count + c + i) * W) : V{};
        }
        transpose<1, W>(rows);
        for (int r = 0; r < s.n; ++r) {
          if (j < s.length[r]) {
            store(to + (s.first[r] + j) * row + at + c, rows[r], lanes);
          }
        }
      }
    }
  }

  // A head's columns of a matrix of `count`, as they are and transposed.
  static LaneMatrix<T> tokens(T* x, int64_t head_at, int64_t count) { return {x + head_at * W, count, 1}; }
  static LaneMatrix<T> transposed(T* x, int64_t head_at, int64_t count) { return {x + head_at * W, 1, count}; }
  static LaneMatrix<T> pairs(T* x, int64_t L) { return {x, L, 1}; }
  static LaneMatrix<T> pairs_transposed(T* x, int64_t L) { return {x, 1, L}; }

  // p [queries][keys]: the products of both -> the softmax over the keys.
  __attribute__((noinline)) void softmax(const LaneSequences<T>& s) const {
    const int64_t L = s.longest;
    T lengths[W];
    for (int r = 0; r < W; ++r) {
      lengths[r] = (T)(r < s.n ? s.length[r] : L);
    }
    const V end = load(lengths), none = V{} - (T)__builtin_inff();
    for (int64_t i = 0; i < L; ++i) {
      T* const row = p + i * L * W;
      const int64_t keys = causal ? i + 1 : L;
      V top = none, sum = {};
      for (int64_t j = 0; j < keys; ++j) {
        V x = load(row + j * W);
        if (j >= s.shortest) {
          x = end > (T)j ? x : none;
          store(row + j * W, x);
        }
        top = x > top ? x : top;
      }
      for (int64_t j = 0; j < keys; ++j) {
        V e, em1;
        exp_neg((load(row + j * W) - top) * scale, e, em1);
        sum += e;
        store(row + j * W, e);
      }
      const V share = (T)1 / sum;
      for (int64_t j = 0; j < keys; ++j) {
        store(row + j * W, load(row + j * W) * share);
      }
      for (int64_t j = keys; j < L; ++j) {
        store(row + j * W, V{});
      }
    }
  }
  // dp: of the probabilities -> of the products of queries and keys.
  __attribute__((noinline)) void softmax_backward(int64_t L) const {
    for (int64_t i = 0; i < L; ++i) {
      const T* const row = p + i * L * W;
      T* const drow = dp + i * L * W;
      V mean = {};
      for (int64_t j = 0; j < L; ++j) {
        mean += load(row + j * W) * load(drow + j * W);
      }
      for (int64_t j = 0; j < L; ++j) {
        store(drow + j * W, (load(drow + j * W) - mean) * load(row + j * W) * scale);
      }
    }
  }

  // The probabilities and outputs of the head whose columns begin at `at` of `count`.
  void attend(const LaneSequences<T>& s, int64_t at, int64_t count) const {
    const int64_t L = s.longest;
    multiply_lanes<T>(L, L, width, tokens(q, at, count), transposed(k, at, count), pairs(p, L));
    softmax(s);
    multiply_lanes<T>(L, width, L, pairs(p, L), tokens(v, at, count), tokens(out, at, count));
  }

  // f(first column, columns) for the heads that are transposed together.
  template <class F>
  inline __attribute__((always_inline)) void blocks(const F& f) const {
    for (int64_t h = 0; h < heads; h += together) {
      f(h * width, (heads - h < together ? heads - h : together) * width);
    }
  }
  void gather_qkv(const LaneSequences<T>& s, const T* qkv, int64_t at, int64_t count) const {
    const int64_t D = heads * width;
    gather(s, qkv, 3 * D, at, count, q);
    gather(s, qkv, 3 * D, D + at, count, k);
    gather(s, qkv, 3 * D, 2 * D + at, count, v);
  }

  // As Attention's, of qkv and out from the first token of the tile.
  void forward(const LaneSequences<T>& s, const T* qkv, T* to) const {
    blocks([&](int64_t at, int64_t count) __attribute__((always_inline)) {
      gather_qkv(s, qkv, at, count);
      for (int64_t h = 0; h < count; h += width) {
        attend(s, h, count);
      }
      scatter(s, out, count, to, heads * width, at);
    });
  }
  void backward(const LaneSequences<T>& s, const T* qkv, const T* g, T* dqkv, T* to) const {
    const int64_t D = heads * width, L = s.longest;
    blocks([&](int64_t at, int64_t count) __attribute__((always_inline)) {
      gather_qkv(s, qkv, at, count);
      gather(s, g, D, at, count, go);
      for (int64_t h = 0; h < count; h += width) {
        attend(s, h, count);
        multiply_lanes<T>(L, L, width, tokens(go, h, count), transposed(v, h, count), pairs(dp, L));
        multiply_lanes<T>(L, width, L, pairs_transposed(p, L), tokens(go, h, count), tokens(dv, h, count));
        softmax_backward(L);
        multiply_lanes<T>(L, width, L, pairs_transposed(dp, L), tokens(q, h, count), tokens(dk, h, count));
        multiply_lanes<T>(L, width, L, pairs(dp, L), tokens(k, h, count), tokens(dq, h, count));
      }
      scatter(s, out, count, to, D, at);
      scatter(s, dq, count, dqkv, 3 * D, at);
      scatter(s, dk, count, dqkv, 3 * D, D + at);
      scatter(s, dv, count, dqkv, 3 * D, 2 * D + at);
    });
  }
};

}  // namespace
}  // namespace ORD_ISA
