// The parameters and rows of planar flows as the kernels read them: in the compute type T, whatever the storage type.
// Half types are converted a block of rows at a time.
#pragma once
#include "cpu/ops/planar_flow_args.h"
#include "cpu/ops/planar_flow_math.h"
#include "cpu/simd/convert.h"

namespace ORD_ISA {

#define ORD_TARGET
#include "cpu/simd/transpose.h"
#undef ORD_TARGET

// One group's parameters, and their terms.
template <class T>
struct GroupParams {
  T *uhat, *w;                                // [K, Dp], zeros behind D
  T *b, *c, *s, *x, *sp, *slope, *n2, *size;  // [K]

  GroupParams(T* scratch, int64_t K, int64_t Dp) : uhat(scratch), w(uhat + K * Dp) {
    T** const scalars[] = {&b, &c, &s, &x, &sp, &slope, &n2, &size};
    T* next = w + K * Dp;
    for (T** p : scalars) {
      *p = next;
      next += K;
    }
  }
  LayerTerms<typename Traits<T>::V> terms(int64_t k) const {
    const typename Traits<T>::V o = {};
    return {o + c[k], o + s[k], o + x[k], o + sp[k], o + slope[k], o + n2[k]};
  }
};

// The parameters of a block of rows, each row's own: row i of the block, layer k.
template <class T>
struct OwnParams {
  const T *u, *w, *b;
  const T *u_end, *w_end;  // where the memory ends: vectors may read up to there
  int64_t u_row, u_layer, w_row, w_layer, b_row, b_layer;
  bool converted;  // in scratch memory, not where the caller's tensors are

  const T* u_at(int64_t i, int64_t k) const { return u + i * u_row + k * u_layer; }
  const T* w_at(int64_t i, int64_t k) const { return w + i * w_row + k * w_layer; }
  T b_at(int64_t i, int64_t k) const { return b[i * b_row + k * b_layer]; }
};

// D known when compiled, where the loops over it are worth unrolling, or at run time (0).
template <int kD>
struct Width {
  static constexpr int64_t D = kD, Dp = flow_padded(kD);
  explicit Width(int64_t) {}
};
template <>
struct Width<0> {
  const int64_t D, Dp;
  explicit Width(int64_t d) : D(d), Dp(flow_padded(d)) {}
};

// kScaled: uhat = u + c w / size and n2 = |w / size|^2 with size = max |w|, so that neither |w|^2 nor the factor of w
// leaves the range of T; else the size is 1.
template <class Scalar, int kD, bool kScaled>
struct Flow : Width<kD> {
  using T = Scalar;
  using V = typename Traits<T>::V;
  using Width<kD>::D, Width<kD>::Dp;
  static constexpr int W = kLanes<T>, R = kFlowRows;

  const FlowArgs& a;
  const int64_t K = a.K;
  const bool half_rows = is_half(a.row_type), half_params = is_half(a.param_type);

  explicit Flow(const FlowArgs& args) : Width<kD>(args.D), a(args) {}

  ORD_INLINE V scaled(V w, T size) {
    if constexpr (kScaled) {
      return w / size;
    }
    return w;
  }
  // max |w|, or 1 where that is 0 or infinite; the memory of w [D] ends at `end`.
  T size_of(const T* w, const T* end) const {
    if constexpr (!kScaled) {
      return 1;
    }
    V most = {};
    for_each_vector<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) {
      const V size = absolute(load(w + d, n, end));
      most = size > most ? size : most;
    });
    T size = 0;
    for (int i = 0; i < W; ++i) {
      size = most[i] > size ? most[i] : size;
    }
    return size > 0 && size < __builtin_inf() ? size : 1;
  }

  // Element i of a tensor of a storage type.
  static const void* element(DType type, const void* p, int64_t i) { return (const char*)p + i * storage_size(type); }
  static void* element(DType type, void* p, int64_t i) { return (char*)p + i * storage_size(type); }

  // Behind the last row of a tensor of rows or of layers: vectors may read up to there.
  const void* rows_end(const void* rows, int64_t stride) const {
    return element(a.row_type, rows, (a.G * a.N - 1) * stride + D);
  }
  const void* layers_end(const void* p, int64_t group, int64_t layer) const {
    return element(a.param_type, p, (a.G - 1) * group + (K - 1) * layer + D);
  }

  // A row of D elements of the storage type into `to` [Dp], zeros behind. `end`: of its tensor.
  void load_row(DType type, const void* row, const void* end, T* to) const {
    for (int64_t d = D / W * W; d < Dp; d += W) {
      store(to + d, V{});
    }
    if (sizeof(T) == 4 && is_half(type)) {
      to_float(type, row, D, (float*)to);
      return;
    }
    const T *const from = (const T*)row, *const stop = (const T*)end;
    for_each_vector<T>(
        D, [&](int64_t d, int n) __attribute__((always_inline)) { store(to + d, load(from + d, n, stop)); });
  }

  // Row r of z_out [rows, D].
  void store_row(const T* from, int64_t r) const {
    if (sizeof(T) == 4 && half_rows) {
      from_float(a.row_type, (const float*)from, D, element(a.row_type, a.z_out, r * D));
      return;
    }
    T* const to = (T*)a.z_out + r * D;
    for_each_vector<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) { store(to + d, load(from + d), n); });
  }

  void load_group(int64_t g, GroupParams<T>& p) const {
    const void *const u_end = layers_end(a.u, a.u_group, a.u_layer), *const w_end =
                                                                         layers_end(a.w, a.w_group, a.w_layer);
    Extent extent;
    for (int64_t k = 0; k < K; ++k) {
      T *const uk = p.uhat + k * Dp, *const wk = p.w + k * Dp;
      load_row(a.param_type, element(a.param_type, a.u, g * a.u_group + k * a.u_layer), u_end, uk);
      load_row(a.param_type, element(a.param_type, a.w, g * a.w_group + k * a.w_layer), w_end, wk);
      const T size = p.size[k] = size_of(wk, wk + Dp);
      V wu = {}, ww = {};
      for (int64_t d = 0; d < Dp; d += W) {
        const V wv = load(wk + d), unit = scaled(wv, size);
        wu += wv * load(uk + d);
        ww += unit * unit;
      }
      const V product = V{} + sum(wu), norm = V{} + sum(ww);
      auto l = layer_terms(product, norm, a.mode);
      extent.add(product, norm, l);
      l.c = scaled(l.c, size);
      for (int64_t d = 0; d < Dp; d += W) {
        store(uk + d, load(uk + d) + l.c * scaled(load(wk + d), size));
      }
      p.b[k] = a.b ? group_bias(g, k) : 0;
      p.c[k] = l.c[0];
      p.s[k] = l.s[0];
      p.x[k] = l.x[0];
      p.sp[k] = l.sp[0];
      p.slope[k] = l.slope[0];
      p.n2[k] = l.n2[0];
    }
    note_extremes(extent);
  }
  T group_bias(int64_t g, int64_t k) const {
    const int64_t i = g * a.b_group + k * a.b_layer;
    if (!half_params) {
      return ((const T*)a.b)[i];
    }
    return a.param_type == DType::bf16 ? scalar(((const bf16*)a.b)[i]) : scalar(((const f16*)a.b)[i]);
  }

  // The parameters of rows [r0, r0 + n), n <= R, where they are; or, of a half type, in `scratch`.
  OwnParams<T> own_params(int64_t r0, int n, T* scratch) const {
    if (sizeof(T) == 4 && half_params) {
      return converted_params(r0, n, (float*)scratch);
    }
    const T *const u = (const T*)a.u, *const w = (const T*)a.w, *const b = (const T*)a.b;
    return {u + r0 * a.u_group,
            w + r0 * a.w_group,
            b ? b + r0 * a.b_group : nullptr,
            (const T*)layers_end(a.u, a.u_group, a.u_layer),
            (const T*)layers_end(a.w, a.w_group, a.w_layer),
            a.u_group,
            a.u_layer,
            a.w_group,
            a.w_layer,
            a.b_group,
            a.b_layer,
            false};
  }
  OwnParams<T> converted_params(int64_t r0, int n, float* scratch) const {
    float *const u = scratch, *const w = u + R * K * D + 16, *const b = w + R * K * D + 16;
    convert_layers(element(a.param_type, a.u, r0 * a.u_group), n, a.u_group, a.u_layer, D, u);
    convert_layers(element(a.param_type, a.w, r0 * a.w_group), n, a.w_group, a.w_layer, D, w);
    if (a.b) {  // none in the backward, which has the saved a
      convert_layers(element(a.param_type, a.b, r0 * a.b_group), n, a.b_group, a.b_layer, 1, b);
    }
    return {(const T*)u, (const T*)w, (const T*)b, (const T*)w, (const T*)b, K * D, D, K * D, D, K, 1, true};
  }
  // [n, K, width] of any strides between the rows and layers, to contiguous memory.
  void convert_layers(const void* from, int n, int64_t row, int64_t layer, int64_t width, float* to) const {
    if (layer == width && row == K * width) {
      return to_float(a.param_type, from, n * K * width, to);
    }
    for (int i = 0; i < n; ++i) {
      for (int64_t k = 0; k < K; ++k, to += width) {
        to_float(a.param_type, element(a.param_type, from, i * row + k * layer), width, to);
      }
    }
  }

  // A layer's parameters are 2D numbers here and there: too short for the hardware to see a stream coming.
  void prefetch(const OwnParams<T>& p, int64_t i, int64_t k) const {
    constexpr int64_t line = 64 / sizeof(T);
    if (p.converted) {
      return;
    }
    const T *const uk = p.u_at(i, k), *const wk = p.w_at(i, k);
    for (int64_t d = 0; d < D; d += line) {
      __builtin_prefetch(uk + d, 0, 2);
      __builtin_prefetch(wk + d, 0, 2);
    }
  }

  // Row r of [rows, D] of the rows' storage type, `stride` apart.
  template <int kWrite>
  void prefetch_row(const void* rows, int64_t r, int64_t stride) const {
    const char* const p = (const char*)element(a.row_type, rows, r * stride);
    for (int64_t i = 0; i < D * storage_size(a.row_type); i += 64) {
      __builtin_prefetch(p + i, kWrite, 2);
    }
  }

  // The least and the largest |w|^2 or correction, but for corrections of w.u = 0.
  struct Extent {
    V least = V{} + 1.0f, most = V{} + 1.0f;
    void add(V wu, V ww, const LayerTerms<V>& l) {
      const V c = absolute(l.c), low = wu != 0.0f ? c : V{} + 1.0f;
      least = ww < least ? ww : least;
      least = low < least ? low : least;
      most = ww > most ? ww : most;
      most = c > most ? c : most;
    }
  };
  // The rows themselves are chosen by a test in fp64 that none passes without being noted here, so that no row depends
  // on what its neighbours set.
  void note_extremes(const Extent& x) const {
    constexpr T low = 2 * kNorms<T>[0], high = kNorms<T>[1] / 2;
    if (a.extreme && any((x.least < low) | (x.most > high))) {
      __atomic_store_n(a.extreme, 1, __ATOMIC_RELAXED);
    }
  }

  // w.u, |w|^2 and, of a scaled flow, max |w| of the layers of rows [i0, i0 + n), n <= W, [K, R] each, read in memory
  // order. A row's products of a few layers are summed over their lanes together while they are in registers, and only
  // their numbers change places with the other rows'.
  inline __attribute__((always_inline)) void products(const OwnParams<T>& p, int i0, int n, T* wu, T* ww,
                                                      T* sizes) const {
    constexpr int kAtOnce = W < 8 ? W : 8, kLayers = kAtOnce / 2;
    alignas(64) T sums[W * kAtOnce];
    for (int i = n * kAtOnce; i < W * kAtOnce; ++i) {
      sums[i] = 1;  // rows that are not there: any numbers that look like a layer
    }
    for (int64_t k0 = 0; k0 < K; k0 += kLayers) {
      const int layers = K - k0 < kLayers ? K - k0 : kLayers;
      for (int i = 0; i < n; ++i) {
        const T *uk = p.u_at(i0 + i, k0), *wk = p.w_at(i0 + i, k0);
        V y[kAtOnce] = {};
#pragma GCC unroll 4
        for (int k = 0; k < kLayers; ++k, uk += p.u_layer, wk += p.w_layer) {
          if (k == layers) {
            break;
          }
          const T size = size_of(wk, p.w_end);
          if constexpr (kScaled) {
            sizes[(k0 + k) * R + i] = size;
          }
          V by_u[2] = {}, by_w[2] = {};
          for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
            const V wv = load(wk + d, m, p.w_end), unit = scaled(wv, size);
            by_u[j] += wv * load(uk + d, m, p.u_end);
            by_w[j] += unit * unit;
          });
          y[2 * k] = by_u[0] + by_u[1];
          y[2 * k + 1] = by_w[0] + by_w[1];
        }
        store_first<kAtOnce>(sums + i * kAtOnce, horizontal_sums_of<kAtOnce>(y));
      }
      V v[kAtOnce];
#pragma GCC unroll 8
      for (int i = 0; i < kAtOnce; ++i) {
        v[i] = load_parts<kAtOnce, V>(sums + i * kAtOnce, sums + (i + kAtOnce) * kAtOnce);
      }
      transpose<1, kAtOnce>(v);
#pragma GCC unroll 4
      for (int k = 0; k < kLayers; ++k) {
        if (k < layers) {
          store(wu + (k0 + k) * R, v[2 * k]);
          store(ww + (k0 + k) * R, v[2 * k + 1]);
        }
      }
    }
  }
};

// f(Flow<T, D, scaled>, scratch) for the compute type and, where it is worth it, the width.
template <template <class, int, bool> class F, class Body>
ORD_INLINE void with_flow(const FlowArgs& a, void* scratch, const Body& body) {
  if (a.scaled) {
    body(F<double, 0, true>(a), (double*)scratch);
  } else if (a.row_type == DType::f64) {
    body(F<double, 0, false>(a), (double*)scratch);
  } else if (a.D == 64) {
    body(F<float, 64, false>(a), (float*)scratch);
  } else {
    body(F<float, 0, false>(a), (float*)scratch);
  }
}

}  // namespace ORD_ISA
