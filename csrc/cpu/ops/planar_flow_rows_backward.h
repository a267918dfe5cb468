// Gradients of planar flows whose rows have parameters of their own; planar_flow_gradients.h has the formulas.
//
// None of a layer's scalars but the gradient of a depends on another layer, given the saved a_k. So a block first reads
// its parameters in memory order, takes the scalars of all layers at once, and rebuilds its states with each in a
// register; then it walks the layers, and the pass that writes one layer's gradients sums g.uhat and g.w for the next.
#pragma once
#include "cpu/ops/planar_flow_params.h"

namespace ORD_ISA {

template <int C>
struct Count {};

template <class Scalar, int kD, bool kScaled>
struct FlowRowsBackward : Flow<Scalar, kD, kScaled> {
  using Base = Flow<Scalar, kD, kScaled>;
  using Base::a, Base::K, Base::D, Base::Dp, Base::W, Base::R;
  using typename Base::T, typename Base::V;

  explicit FlowRowsBackward(const FlowArgs& args) : Base(args) {}

  // What the layers' scalars are, [K, R] each. The size of scaled flows alone.
  struct Scalars {
    T *t, *h, *c, *s, *slope, *n2, *by_a, *by_x, *inverse, *size;
    Scalars(T* next, int64_t K) {
      T** const all[] = {&t, &h, &c, &s, &slope, &n2, &by_a, &by_x, &inverse, &size};
      for (T** p : all) {
        *p = next;
        next += K * R;
      }
    }
  };

  // Where the parameters' gradients go: row i of the block, layer k.
  struct OwnGrads {
    T *u, *w, *b;
    int64_t u_row, u_layer, w_row, w_layer, b_row, b_layer;
    T* u_at(int64_t i, int64_t k) const { return u + i * u_row + k * u_layer; }
    T* w_at(int64_t i, int64_t k) const { return w + i * w_row + k * w_layer; }
    T* b_at(int64_t i, int64_t k) const { return b + i * b_row + k * b_layer; }
  };

  // Rows [r0, r0 + n), n <= W: their states z [K, block, Dp], the gradient g [block, Dp] and that of the log-det, and
  // the products of g with uhat and w of the layer at hand, to be summed over their lanes.
  struct Block {
    int64_t r0;
    int n;
    T *z, *g;
    Scalars l;
    OwnParams<T> own;
    OwnGrads grads;
    alignas(64) T gl[W];
    V gu[W], gw[W];
  };

  // One vector of rows at a time: their parameters, gradients and states are what the first-level cache holds.
  template <bool kInverse>
  void run(int64_t begin, int64_t end, T* scratch) const {
    T *const z = scratch, *const g = z + K * a.block * Dp, *const scalars = g + a.block * Dp;
    Block rows{0, 0, z, g, Scalars(scalars, K), {}, {}, {}, {}, {}};
    const int64_t step = a.block < W ? a.block : W;
    for (int64_t r = begin; r < end; r += step) {
      rows.r0 = r;
      rows.n = end - r < step ? end - r : step;
      rows.own = this->own_params(r, rows.n, scalars + 10 * K * R);
      rows.grads = own_grads(rows);
      block<kInverse>(rows);
      if (rows.own.converted) {
        convert_grads(rows);
      }
    }
    if (a.stream) {
      __builtin_ia32_sfence();
    }
  }

  // Where the caller wants them; or, of a half type, over the converted parameters.
  OwnGrads own_grads(const Block& rows) const {
    const OwnParams<T>& p = rows.own;
    if (p.converted) {
      return {(T*)p.u, (T*)p.w, (T*)p.b, p.u_row, p.u_layer, p.w_row, p.w_layer, p.b_row, p.b_layer};
    }
    return {(T*)a.gu + rows.r0 * a.gu_group,
            (T*)a.gw + rows.r0 * a.gw_group,
            (T*)a.gb + rows.r0 * a.gb_group,
            a.gu_group,
            a.gu_layer,
            a.gw_group,
            a.gw_layer,
            a.gb_group,
            a.gb_layer};
  }

  void convert_grads(const Block& rows) const {
    const auto to = [&](const T* from, void* grad, int64_t group, int64_t width) {
      from_float(a.param_type, (const float*)from, rows.n * K * width,
                 this->element(a.param_type, grad, rows.r0 * group));
    };
    to(rows.grads.u, a.gu, a.gu_group, D);
    to(rows.grads.w, a.gw, a.gw_group, D);
    to(rows.grads.b, a.gb, a.gb_group, 1);
  }

  template <bool kInverse>
  void block(Block& rows) const {
    for (int i = 0; i < W; ++i) {
      rows.gl[i] = i < rows.n ? ((const T*)a.gl)[rows.r0 + i] : 0;
      rows.gu[i] = V{};
      rows.gw[i] = V{};
    }
    layer_scalars<kInverse>(rows);
    rebuild(rows);
    start(rows, kInverse ? 0 : K - 1);
    for (int64_t layer = 0; layer + 1 < K; ++layer) {
      step<kInverse, false>(rows, kInverse ? layer : K - 1 - layer);
    }
    step<kInverse, true>(rows, kInverse ? K - 1 : 0);
  }

  template <bool kInverse>
  void layer_scalars(const Block& rows) const {
    const Scalars& l = rows.l;
    for (int64_t k = 0; k < K; ++k) {
      for (int i = 0; i < W; ++i) {
        l.t[k * R + i] = i < rows.n ? ((const T*)a.act_in)[(rows.r0 + i) * K + k] : 0;
      }
    }
    this->products(rows.own, 0, rows.n, l.c, l.n2, l.size);  // kept there until all are made
    typename Base::Extent extent;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t at = k * R;
      const V wu = load(l.c + at), ww = load(l.n2 + at);
      auto e = layer_terms(wu, ww, a.mode);
      extent.add(wu, ww, e);
      if constexpr (kScaled) {
        e.c /= load(l.size + at);
      }
      V t, h, by_a, by_x, inverse;
      tanh_sech2(load(l.t + at), t, h);
      log_det_slopes(t, h, e, a.mode, by_a, by_x, inverse);
      store(l.t + at, t);
      store(l.h + at, h);
      store(l.c + at, e.c);
      store(l.slope + at, e.slope);
      store(l.n2 + at, e.n2);
      store(l.by_a + at, by_a);
      store(l.by_x + at, by_x);
      if constexpr (kInverse) {
        store(l.s + at, e.s);
        store(l.inverse + at, inverse);
      }
    }
    this->note_extremes(extent);
  }

  // Row i of a tensor [rows, D] of the rows' storage type, as numbers of the compute type: where it is, or, of a half
  // type, in `to` [Dp]. Sets `end`, up to which vectors may read.
  const T* row_of(const void* rows, int64_t stride, int64_t r, T* to, const T*& end) const {
    const void* const row = this->element(a.row_type, rows, r * stride);
    if (!this->half_rows) {
      end = (const T*)this->rows_end(rows, stride);
      return (const T*)row;
    }
    end = to + Dp;
    to_float(a.row_type, row, D, (float*)to);
    return to;
  }

  ORD_INLINE T size_at(const Scalars& l, int64_t i) { return kScaled ? l.size[i] : 1; }

  // The layers' inputs, z [K, block, Dp].
  void rebuild(const Block& rows) const {
    const int64_t z_layer = a.block * Dp;
    const OwnParams<T> p = rows.own;
    const Scalars l = rows.l;
    for (int i = 0; i < rows.n; ++i) {
      T* const z = rows.z + i * Dp;
      const T* z_end;
      const T* const from = row_of(a.z, a.z_row, rows.r0 + i, z, z_end);
      const T *const ui = p.u_at(i, 0), *const wi = p.w_at(i, 0);
      // C vectors from d on, the last of m lanes
      const auto walk = [&]<int C>(int64_t d, int m, Count<C>) __attribute__((always_inline)) {
        V zv[C];
        for (int j = 0; j < C; ++j) {
          zv[j] = load(from + d + j * W, m, z_end);
          store(z + d + j * W, zv[j]);
        }
        for (int64_t k = 0; k + 1 < K; ++k) {
          const T *const uk = ui + k * p.u_layer + d, *const wk = wi + k * p.w_layer + d;
          const T t = l.t[k * R + i], c = l.c[k * R + i], size = size_at(l, k * R + i);
          T* const to = z + (k + 1) * z_layer + d;
          for (int j = 0; j < C; ++j) {
            zv[j] += t * (load(uk + j * W, m, p.u_end) + c * this->scaled(load(wk + j * W, m, p.w_end), size));
            store(to + j * W, zv[j]);
          }
        }
      };
      int64_t d = 0;
      for (; d + 4 * W <= D; d += 4 * W) {
        walk(d, W, Count<4>{});
      }
      for (; d + W <= D; d += W) {
        walk(d, W, Count<1>{});
      }
      if (d < D) {
        walk(d, (int)(D - d), Count<1>{});
      }
    }
  }

  // g from the gradient of the output, and its products with the parameters of layer k, the first.
  void start(Block& rows, int64_t k) const {
    const OwnParams<T> p = rows.own;
    for (int i = 0; i < rows.n; ++i) {
      T* const g = rows.g + i * Dp;
      const T* gz_end;
      const T* const from = row_of(a.gz, a.gz_row, rows.r0 + i, g, gz_end);
      const T *const ui = p.u_at(i, k), *const wi = p.w_at(i, k);
      const T ci = rows.l.c[k * R + i], size = size_at(rows.l, k * R + i);
      this->template prefetch_row<1>(a.z_out, rows.r0 + i, D);
      V x[2] = {}, y[2] = {};
      for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        const V gv = load(from + d, m, gz_end), wv = this->scaled(load(wi + d, m, p.w_end), size);
        store(g + d, gv);
        x[j] += gv * (load(ui + d, m, p.u_end) + ci * wv);
        y[j] += gv * wv;
      });
      rows.gu[i] = x[0] + x[1];
      rows.gw[i] = y[0] + y[1];
    }
  }

  // What a step multiplies a row's vectors by.
  struct StepScalars {
    alignas(64) T ga[W], gx[W], on_w[W], pull[W], c_pull[W];
  };

  template <bool kInverse, bool kLast>
  void step(Block& rows, int64_t k) const {
    StepScalars q;
    step_scalars<kInverse>(rows, k, q);
    const int64_t next_k = kLast ? k : kInverse ? k + 1 : k - 1;
    const T* const next_c = rows.l.c + next_k * R;
    const OwnParams<T> p = rows.own;
    const OwnGrads grads = rows.grads;
    for (int i = 0; i < rows.n; ++i) {
      const int64_t r = rows.r0 + i;
      this->prefetch(p, W + i, k);  // of the next block, while there is much to compute
      if constexpr (kLast) {
        this->template prefetch_row<0>(a.z, r + W, a.z_row);
        this->template prefetch_row<0>(a.gz, r + W, a.gz_row);
      }
      const T *const ui = p.u_at(i, k), *const wi = p.w_at(i, k);
      const T *const next_u = p.u_at(i, next_k), *const next_w = p.w_at(i, next_k);
      const T* const z = rows.z + k * a.block * Dp + i * Dp;
      T *const g = rows.g + i * Dp, *const to_z = this->half_rows ? g : (T*)a.z_out + r * D;
      T *const to_u = grads.u_at(i, k), *const to_w = grads.w_at(i, k);
      const bool stream = a.stream && ((uintptr_t)to_u | (uintptr_t)to_w) % 32 == 0;
      if (!a.stream && !p.converted) {
        prefetch_grads(to_u + W * grads.u_row, to_w + W * grads.w_row);
      }
      const T ti = q.pull[i], gai = q.ga[i], gxi = q.gx[i], cti = q.c_pull[i], wi_by = q.on_w[i], ci = next_c[i],
              size = size_at(rows.l, k * R + i), next_size = size_at(rows.l, next_k * R + i);
      V x[2] = {}, y[2] = {};
      for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        const V uv = load(ui + d, m, p.u_end), wv = load(wi + d, m, p.w_end), old = load(g + d), next = old + gai * wv;
        const V pulled = kInverse ? next : old;
        store(to_u + d, ti * pulled + gxi * wv, m, stream);
        if constexpr (kScaled) {
          const V by_uhat = (cti * pulled + wi_by * (wv / size)) / size;
          store(to_w + d, gai * load(z + d) + by_uhat + gxi * uv, m, stream);
        } else {
          store(to_w + d, gai * load(z + d) + cti * pulled + wi_by * wv + gxi * uv, m, stream);
        }
        if constexpr (kLast) {
          store(to_z + d, next, m);
        } else {
          store(g + d, next);
          const V next_wv = this->scaled(load(next_w + d, m, p.w_end), next_size);
          x[j] += next * (load(next_u + d, m, p.u_end) + ci * next_wv);
          y[j] += next * next_wv;
        }
      });
      rows.gu[i] = x[0] + x[1];
      rows.gw[i] = y[0] + y[1];
      *grads.b_at(i, k) = gai;
      if (kLast && this->half_rows) {
        this->store_row(g, r);
      }
    }
  }

  template <bool kInverse>
  void step_scalars(const Block& rows, int64_t k, StepScalars& q) const {
    const Scalars& l = rows.l;
    const int64_t at = k * R;
    const V h = load(l.h + at), t = load(l.t + at), c = load(l.c + at), n2 = load(l.n2 + at), glv = load(rows.gl);
    const V by_logdet = glv * load(l.by_a + at);
    const V g_uhat = horizontal_sums(rows.gu);
    V gwv = horizontal_sums(rows.gw), gav, size = V{} + 1.0f;
    if constexpr (kScaled) {
      size = load(l.size + at);
    }
    if constexpr (kInverse) {
      gav = by_logdet - h * load(l.inverse + at) * (g_uhat + by_logdet * load(l.s + at));
      gwv +=
          gav * (kScaled ? n2 * size : n2);  // n2 is 1 where w = 0, and counts for nothing there: c = 0 and slope = 1
    } else {
      gav = g_uhat * h + by_logdet;
    }
    const V pulling = kInverse ? -t : t, gc = pulling * gwv;
    store(q.ga, gav);
    store(q.pull, pulling);
    store(q.c_pull, c * pulling);
    store(q.gx, glv * load(l.by_x + at) + gc * (load(l.slope + at) - 1.0f) / n2 / size);
    store(q.on_w, -2.0f * gc * c / n2);
  }

  // Each line is read before it is written, and the hardware sees no stream in these either.
  void prefetch_grads(const T* u, const T* w) const {
    for (int64_t d = 0; d < D; d += 64 / sizeof(T)) {
      __builtin_prefetch(u + d, 1, 2);
      __builtin_prefetch(w + d, 1, 2);
    }
  }
};

}  // namespace ORD_ISA
