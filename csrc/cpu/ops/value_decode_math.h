// What a step of the value_decode kernel does to one row: norms, attention over the cache, activations.
#pragma once
#include "cpu/gemm/gemm_tile_size.h"
#include "cpu/simd/gelu.h"

namespace ORD_ISA {
namespace {

template <int w, class V>
ORD_INLINE V larger_of_lanes(V v) {  // lane i and lane i ^ w; where one is NaN, either
  const V o = shuffle_xor<w>(v);
  return v > o ? v : o;
}
template <class V>
ORD_INLINE auto largest(V v) {
  if constexpr (kSize<V> > 8) {
    v = larger_of_lanes<8>(v);
  }
  if constexpr (kSize<V> > 4) {
    v = larger_of_lanes<4>(v);
  }
  if constexpr (kSize<V> > 2) {
    v = larger_of_lanes<2>(v);
  }
  return larger_of_lanes<1>(v)[0];
}

template <class V>
ORD_INLINE V inverse_root(V v) {  // NaN for infinity: a variance that overflows tells no scale
  for (int i = 0; i < kSize<V>; ++i) {
    v[i] = __builtin_sqrt(v[i]);
  }
  return v < __builtin_inff() ? 1.0f / v : (V){} + __builtin_nanf("");
}

template <class T>
__attribute__((noinline)) static void activate(T* __restrict h, int64_t n, bool smooth) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  if (smooth) {
    for (int64_t i = 0; i < n; i += W) {
      store(h + i, gelu(load(h + i)));
    }
  } else {
    for (int64_t i = 0; i < n; i += W) {
      const V v = load(h + i);
      store(h + i, v < (T)0 ? V{} : v);  // NaN stays
    }
  }
}

// ---- layer norm of n rows 64 apart, whose tiles lie `stride` apart; w, b padded to tiles with zeros

// As many rows together as a vector has lanes: their means and scales are a vector each. kD: d, or 0.
template <class T, int kD>
__attribute__((noinline)) static void norm_rows(int64_t n, int64_t width, T eps, const T* from, int64_t stride,
                                                const T* w, const T* b, T* to) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  const int64_t d = kD ? kD : width, d_tiles = tiles_of(d);
  const auto columns = [&](auto f) __attribute__((always_inline)) {  // f(place in a row, place in w and b, lanes)
    for (int64_t i = 0; i < d_tiles; ++i) {
      for_each_vector<T>(tile_columns(d, i), [&](int64_t j, int lanes) __attribute__((always_inline)) {
        f(i * stride + j, i * kTileWidth + j, lanes);
      });
    }
  };
  for (; n > 0; n -= W, from += W * kTileWidth, to += W * kTileWidth) {
    const int m = n < W ? (int)n : W;
    V s[W], q[W];
    alignas(64) T mean[W], scale[W];
    for (int r = m; r < W; ++r) {
      s[r] = q[r] = V{};
    }
    for (int r = 0; r < m; ++r) {
      V all = {};
      columns([&](int64_t j, int64_t, int lanes) __attribute__((always_inline)) {
        all += load(from + r * kTileWidth + j, lanes, from + r * kTileWidth + j + W);
      });
      s[r] = all;
    }
    store(mean, horizontal_sums(s) / (T)d);
    for (int r = 0; r < m; ++r) {
      V all = {};
      columns([&](int64_t j, int64_t, int lanes) __attribute__((always_inline)) {
        V c = load(from + r * kTileWidth + j) - mean[r];
        if (lanes < W) {
          c = (V)((Ints<V>)c & first_lanes(lanes, V{}));
        }
        all += c * c;
      });
      q[r] = all;
    }
    store(scale, inverse_root(horizontal_sums(q) / (T)d + eps));
    for (int r = 0; r < m; ++r) {
      columns([&](int64_t j, int64_t at, int) __attribute__((always_inline)) {
        store(to + r * kTileWidth + j,
              (load(from + r * kTileWidth + j) - mean[r]) * scale[r] * load(w + at) + load(b + at));
      });
    }
  }
}

template <class T>
static void norm(int64_t n, int64_t d, T eps, const T* from, int64_t stride, const T* w, const T* b, T* to) {
  d == kTileWidth ? norm_rows<T, kTileWidth>(n, d, eps, from, stride, w, b, to)
                  : norm_rows<T, 0>(n, d, eps, from, stride, w, b, to);
}

// ---- attention of one row

// q [heads width], scaled; keys and values of n positions, rows `stride` apart; score: padded(n) elements;
// to [d], padded by a vector.
template <class T>
struct Attention {
  int64_t n, heads, width, stride;
  const T *q, *k, *v;
  T *score, *to;
};

// exp(score - most) in place of n scores, and of what fills the last vector; the sums by lanes.
template <class T, class V>
ORD_INLINE V exponentials(T* score, int64_t n, V most) {
  V all = {};
  for (int64_t t = 0; t < n; t += kLanes<T>) {
    V e, em1;
    exp_neg(load(score + t) - most, e, em1);
    store(score + t, e);
    all += e;
  }
  return all;
}

template <class T>
__attribute__((noinline)) static void attend(const Attention<T>& a) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  const int64_t n = a.n, width = a.width, stride = a.stride;
  const T *q = a.q, *k = a.k, *v = a.v;
  T *const score = a.score, *to = a.to;
  const V minus = V{} - (T)__builtin_inf();
  for (int64_t h = 0; h < a.heads; ++h, q += width, k += width, v += width, to += width) {
    V top = minus;
    for (int64_t t = 0; t < n; t += W) {
      V dot[W] = {};
      const int m = n - t < W ? (int)(n - t) : W;
      for (int l = 0; l < m; ++l) {
        const T* kt = k + (t + l) * stride;
        V s = {};
        for_each_vector<T>(width, [&](int64_t j, int lanes) __attribute__((always_inline)) {
          V p = load(q + j) * load(kt + j);
          if (lanes < W) {
            p = (V)((Ints<V>)p & first_lanes(lanes, V{}));
          }
          s += p;
        });
        dot[l] = s;
      }
      V s = horizontal_sums(dot);
      if (m < W) {
        s = first_lanes(m, V{}) ? s : minus;
      }
      store(score + t, s);
      top = top > s ? top : s;
    }
    const V most = V{} + largest(top);
    const V share = V{} + (T)1 / sum(exponentials(score, n, most));
    for (int64_t j = 0; j < width; j += W) {  // the next head overwrites the lanes past this one's
      V o = {};
      for (int64_t t = 0; t < n; ++t) {
        o += score[t] * load(v + t * stride + j);
      }
      store(to + j, o * share);
    }
  }
}

// `reduce` over the lanes that are a multiple of `heads` apart, a power of two.
template <class V, class F>
ORD_INLINE V over_positions(V v, int64_t heads, F reduce) {
  if constexpr (kSize<V> > 8) {
    if (heads <= 8) {
      v = reduce(v, shuffle_xor<8>(v));
    }
  }
  if constexpr (kSize<V> > 4) {
    if (heads <= 4) {
      v = reduce(v, shuffle_xor<4>(v));
    }
  }
  if (heads <= 2 && kSize<V> > 2) {
    v = reduce(v, shuffle_xor<2 % kSize<V>>(v));
  }
  if (heads == 1) {
    v = reduce(v, shuffle_xor<1>(v));
  }
  return v;
}

// The same for heads of HV whole vectors, their number a divisor of a vector's lanes: a lane is a position and a head,
// so that one vector holds the scores of several positions. Reads up to a vector's lanes of keys past the last
// position.
template <class T, int HV>
__attribute__((noinline)) static void attend_together(const Attention<T>& a) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>, N = HV * W;
  const int64_t heads = a.heads, pairs = a.n * heads;
  const T *const q = a.q, *const k = a.k, *const v = a.v;
  T *const score = a.score, *const to = a.to;
  V each[W * HV];
#pragma GCC unroll 64
  for (int l = 0; l < W * HV; ++l) {
    each[l] = load(q + (l & (heads * HV - 1)) * W);
  }
  V top = V{} - (T)__builtin_inf();
  for (int64_t p = 0; p < pairs; p += W) {
    V dot[W];
#pragma GCC unroll 16
    for (int l = 0; l < W; ++l) {
      dot[l] = each[l * HV] * load(k + (p + l) * N);
#pragma GCC unroll 8
      for (int i = 1; i < HV; ++i) {
        dot[l] += each[l * HV + i] * load(k + (p + l) * N + i * W);
      }
    }
    V s = horizontal_sums(dot);
    if (pairs - p < W) {
      s = first_lanes((int)(pairs - p), V{}) ? s : V{} - (T)__builtin_inf();
    }
    store(score + p, s);
    top = top > s ? top : s;
  }
  const V most = over_positions(top, heads, [](V x, V y) __attribute__((always_inline)) { return x > y ? x : y; });
  const V all = exponentials(score, pairs, most);
  const V share = (T)1 / over_positions(all, heads, [](V x, V y) __attribute__((always_inline)) { return x + y; });
  for (int64_t p = 0; p < pairs; p += W) {
    store(score + p, load(score + p) * share);
  }
  for (int64_t h = 0; h < heads; ++h) {
    V o[HV] = {};
    for (int64_t p = h; p < pairs; p += heads)
#pragma GCC unroll 8
      for (int i = 0; i < HV; ++i) {
        o[i] += score[p] * load(v + p * N + i * W);
      }
#pragma GCC unroll 8
    for (int i = 0; i < HV; ++i) {
      store(to + h * N + i * W, o[i]);
    }
  }
}

template <class T>
static void attention(const Attention<T>& a) {
  constexpr int W = kLanes<T>;
  if (W % a.heads == 0 && a.stride == a.heads * a.width) {
    if (a.width == W) {
      return attend_together<T, 1>(a);
    }
    if (a.width == 2 * W) {
      return attend_together<T, 2>(a);
    }
    if (a.width == 4 * W) {
      return attend_together<T, 4>(a);
    }
  }
  attend(a);
}

}  // namespace
}  // namespace ORD_ISA
