// What a Transformer layer does to rows between its products: norms and activations, forward and backward.
#pragma once
#include "cpu/ops/sequence_layer_args.h"
#include "cpu/simd/gelu.h"
#include "cpu/simd/silu.h"

namespace ORD_ISA {
namespace {

// Layer norm of rows of D elements: as many rows together as a vector has lanes, whose sums are then a vector each.
template <class T>
struct RowNorm {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;

  int64_t D;
  T eps;
  const T *weight, *bias;
  T* room;  // of n rows, W at a time: their means, then 1 / standard deviations, which the way forward leaves for
            // backward

  // f(d, lanes) for the vectors of a row.
  template <class F>
  inline __attribute__((always_inline)) void columns(const F& f) const {
    int64_t d = 0;
    for (; d + W <= D; d += W) {
      f(d, W);
    }
    if (d < D) {
      f(d, (int)(D - d));
    }
  }
  ORD_INLINE V read(const T* p, int lanes) { return load(p, lanes, p + lanes); }

  // Means and 1 / standard deviations of n rows, at most W.
  __attribute__((noinline)) void moments(const T* x, int n, T* mean, T* scale) const {
    V sums[W];
    for (int r = 0; r < W; ++r) {
      sums[r] = V{};
      if (r < n) {
        columns([&](int64_t d, int lanes) __attribute__((always_inline)) { sums[r] += read(x + r * D + d, lanes); });
      }
    }
    const V m = horizontal_sums(sums) / (T)D;
    store(mean, m);
    for (int r = 0; r < W; ++r) {
      sums[r] = V{};
      if (r < n) {
        columns([&](int64_t d, int lanes) __attribute__((always_inline)) {
          const V v = read(x + r * D + d, lanes) - mean[r];
          sums[r] += lanes == W ? v * v : (V)((Ints<V>)(v * v) & first_lanes(lanes, V{}));
        });
      }
    }
    V variance = horizontal_sums(sums) / (T)D + eps;
    for (int i = 0; i < W; ++i) {
      variance[i] = __builtin_sqrt(variance[i]);
    }
    // A variance that overflows tells no scale.
    store(scale, variance < (T)__builtin_inff() ? (T)1 / variance : V{} + (T)__builtin_nanf(""));
  }

  void forward(const T* x, int64_t n, T* y) const {
    for (int64_t r = 0; r < n; r += W) {
      const int rows = n - r < W ? (int)(n - r) : W;
      T *const mean = room + 2 * r, *const scale = mean + W;
      moments(x + r * D, rows, mean, scale);
      normalize(x + r * D, rows, mean, scale, y + r * D);
    }
  }
  __attribute__((noinline)) void normalize(const T* x, int n, const T* mean, const T* scale, T* y) const {
    columns([&](int64_t d, int lanes) __attribute__((always_inline)) {
      const V w = read(weight + d, lanes), b = read(bias + d, lanes);
      for (int r = 0; r < n; ++r) {
        const V v = (read(x + r * D + d, lanes) - mean[r]) * scale[r];
        store(y + r * D + d, v * w + b, lanes);
      }
    });
  }

  // dx = (add, if there is one) + the gradient through the norm of g; dweight and dbias are added to, if there are any.
  // x, g, add, dx may not overlap, but dx may be add. known: the moments of x are in the room.
  void backward(const T* x, const T* g, int64_t n, bool known, const T* add, T* dx, T* dweight, T* dbias) const {
    T g_mean[W], g_slope[W];
    for (int64_t r = 0; r < n; r += W) {
      const int rows = n - r < W ? (int)(n - r) : W;
      const T *const xr = x + r * D, *const gr = g + r * D;
      T *const mean = room + 2 * r, *const scale = mean + W;
      if (!known) {
        moments(xr, rows, mean, scale);
      }
      means(xr, gr, rows, mean, scale, g_mean, g_slope);
      columns([&](int64_t d, int lanes) __attribute__((always_inline)) {
        const V w = read(weight + d, lanes);
        V dw = {}, db = {};
        for (int i = 0; i < rows; ++i) {
          const V gv = read(gr + i * D + d, lanes), h = (read(xr + i * D + d, lanes) - mean[i]) * scale[i];
          dw += gv * h;
          db += gv;
          V out = (gv * w - g_mean[i] - h * g_slope[i]) * scale[i];
          out += add ? read(add + (r + i) * D + d, lanes) : V{};
          store(dx + (r + i) * D + d, out, lanes);
        }
        if (dweight) {
          store(dweight + d, read(dweight + d, lanes) + dw, lanes);
        }
        if (dbias) {
          store(dbias + d, read(dbias + d, lanes) + db, lanes);
        }
      });
    }
  }
  // Of each row, the means of g w and of g w h, h the normalised x.
  __attribute__((noinline)) void means(const T* x, const T* g, int n, const T* mean, const T* scale, T* g_mean,
                                       T* g_slope) const {
    V sums[W], products[W];
    for (int r = 0; r < W; ++r) {
      sums[r] = products[r] = V{};
      if (r < n) {
        columns([&](int64_t d, int lanes) __attribute__((always_inline)) {
          const V gw = read(g + r * D + d, lanes) * read(weight + d, lanes);
          sums[r] += gw;
          products[r] += gw * (read(x + r * D + d, lanes) - mean[r]);
        });
      }
    }
    store(g_mean, horizontal_sums(sums) / (T)D);
    store(g_slope, horizontal_sums(products) / (T)D * load(scale));
  }
};

template <class V, Activation kind>
ORD_INLINE V activated(V z) {
  typedef decltype(z[0] + 0) T;
  if constexpr (kind == Activation::silu) {
    return silu(z);
  } else if constexpr (kind == Activation::gelu) {
    return gelu(z);
  } else {
    return z < (T)0 ? V{} : z;  // NaN stays
  }
}
// The same, and its derivative.
template <class V, Activation kind>
ORD_INLINE V activated_with_slope(V z, V& slope) {
  typedef decltype(z[0] + 0) T;
  if constexpr (kind == Activation::silu) {
    const V s = logistic(z);
    slope = s * (z * ((T)1 - s) + (T)1);
    return z * s;
  } else if constexpr (kind == Activation::gelu) {
    slope = gelu_slope(z);
    return gelu(z);
  } else {
    slope = z <= (T)0 ? V{} : V{} + (T)1;
    return activated<V, kind>(z);
  }
}

// h [n, F] -> its activation, rows `row` apart.
template <class T, Activation kind>
__attribute__((noinline)) static void activate_rows(const T* h, int64_t n, int64_t F, T* to, int64_t row) {
  using V = typename Traits<T>::V;
  for (int64_t r = 0; r < n; ++r) {
    for_each_vector<T>(F, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      const T* const p = h + r * F + d;
      store(to + r * row + d, activated<V, kind>(load(p, lanes, p + lanes)), lanes);
    });
  }
}
// The same, and its slopes.
template <class T, Activation kind>
__attribute__((noinline)) static void activate_rows_with_slopes(const T* h, int64_t n, int64_t F, T* to, T* slopes,
                                                                int64_t row) {
  using V = typename Traits<T>::V;
  for (int64_t r = 0; r < n; ++r) {
    for_each_vector<T>(F, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      const T* const p = h + r * F + d;
      V slope;
      store(to + r * row + d, activated_with_slope<V, kind>(load(p, lanes, p + lanes), slope), lanes);
      store(slopes + r * row + d, slope, lanes);
    });
  }
}

template <class F>
static void with_activation(Activation kind, const F& f) {
  switch (kind) {
    case Activation::silu: return f.template operator()<Activation::silu>();
    case Activation::relu: return f.template operator()<Activation::relu>();
    case Activation::gelu: return f.template operator()<Activation::gelu>();
  }
}

// sums [D] += the sums over n rows of x, `row` apart.
template <class T>
__attribute__((noinline)) static void add_row_sums(const T* x, int64_t n, int64_t D, int64_t row, T* sums) {
  for_each_vector<T>(D, [&](int64_t d, int lanes) __attribute__((always_inline)) {
    auto s = load(sums + d, lanes, sums + d + lanes);
    for (int64_t r = 0; r < n; ++r) {
      const T* const p = x + r * row + d;
      s += load(p, lanes, p + lanes);
    }
    store(sums + d, s, lanes);
  });
}

}  // namespace
}  // namespace ORD_ISA
