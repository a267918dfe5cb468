// Gradients of planar flows whose rows have parameters of their own; planar_flow_backward.h has the formulas.
//
// None of a layer's scalars but the gradient of a depends on another layer, given the saved a_k. So a block
// first reads its parameters in memory order, takes the scalars of all layers at once, and rebuilds its states with
// each in a register; then it walks the layers, and the pass that writes one layer's gradients sums g.uhat and g.w for
// the next.
#pragma once
#include "cpu/ops/planar_flow.h"

namespace ORD_ISA {

template <int C>
struct Count {};

template <class S, class P = S, int kD = 0>
struct FlowBackwardRows : Flow<S, P, kD> {
  using Base = Flow<S, P, kD>;
  using Base::a, Base::K, Base::D, Base::Dp, Base::u_end, Base::w_end, Base::z_end, Base::W, Base::R;
  using typename Base::T, typename Base::V;

  const S* const gz_end = (const S*)a.gz + (a.G - 1) * a.gz_row + D;

  explicit FlowBackwardRows(const FlowArgs& args) : Base(args) {}

  // What the layers' scalars are, [K, R] each.
  struct Scalars {
    T *t, *h, *c, *s, *slope, *n2, *by_a, *by_x, *inverse;
  };

  // One vector of rows at a time: their parameters, gradients and states are what the first-level cache holds.
  template <bool kInverse>
  void run(int64_t begin, int64_t end, T* scratch) const {
    const int64_t step = a.block < W ? a.block : W;
    for (int64_t r = begin; r < end; r += step) {
      const int n = end - r < step ? end - r : step;
      a.stream ? block<kInverse, true>(r, n, scratch) : block<kInverse, false>(r, n, scratch);
    }
    if (a.stream) {
      __builtin_ia32_sfence();
    }
  }

  // Rows [r0, r0 + n), n <= W.
  template <bool kInverse, bool kStream>
  void block(int64_t r0, int n, T* scratch) const {
    T* const z = scratch;  // [K, block, Dp]
    T* const g = z + K * a.block * Dp;
    T* next = g + a.block * Dp;
    Scalars l;
    T** const all[] = {&l.t, &l.h, &l.c, &l.s, &l.slope, &l.n2, &l.by_a, &l.by_x, &l.inverse};
    for (T** q : all) {
      *q = next, next += K * R;
    }
    alignas(64) T gl[W] = {};
    V gu[W], gw[W];  // products of g with uhat and w, to be summed over their lanes
    for (int i = n; i < W; ++i) {
      gu[i] = gw[i] = V{};
    }
    for (int i = 0; i < n; ++i) {
      gl[i] = ((const T*)a.gl)[r0 + i];
    }
    scalars<kInverse>(r0, n, l);
    rebuild(r0, n, z, l);
    start(r0, n, kInverse ? 0 : K - 1, g, l, gu, gw);
    for (int64_t layer = 0; layer + 1 < K; ++layer) {
      const int64_t k = kInverse ? layer : K - 1 - layer;
      step<kInverse, kStream, false>(r0, n, k, z + k * a.block * Dp, g, l, gl, gu, gw);
    }
    const int64_t last = kInverse ? K - 1 : 0;
    step<kInverse, kStream, true>(r0, n, last, z + last * a.block * Dp, g, l, gl, gu, gw);
  }

  // The scalars of all layers of rows [r0, r0 + n), n <= W.
  template <bool kInverse>
  void scalars(int64_t r0, int n, const Scalars& l) const {
    for (int64_t k = 0; k < K; ++k) {
      for (int i = 0; i < W; ++i) {
        l.t[k * R + i] = i < n ? ((const T*)a.act_in)[(r0 + i) * K + k] : 0;
      }
    }
    this->products(r0, n, l.c, l.n2);  // cached there until all are made
    for (int64_t k = 0; k < K; ++k) {
      const int64_t at = k * R;
      const auto e = layer_terms(load(l.c + at), load(l.n2 + at), a.mode);
      V t, h, by_a, by_x, inverse;
      tanh_sech2(load(l.t + at), t, h);
      log_det_slopes(t, h, e, a.mode, by_a, by_x, inverse);
      store(l.t + at, t), store(l.h + at, h), store(l.c + at, e.c), store(l.slope + at, e.slope),
          store(l.n2 + at, e.n2);
      store(l.by_a + at, by_a), store(l.by_x + at, by_x);
      if constexpr (kInverse) {
        store(l.s + at, e.s), store(l.inverse + at, inverse);
      }
    }
  }

  // The layers' inputs, z [K, block, Dp].
  void rebuild(int64_t r0, int n, T* z, const Scalars& l) const {
    const int64_t z_layer = a.block * Dp;
    for (int i = 0; i < n; ++i, z += Dp) {
      const S* const from = (const S*)a.z + (r0 + i) * a.z_row;
      const P *const ui = this->u(r0 + i, 0), *const wi = this->w(r0 + i, 0);
      // C vectors from d on, the last of m lanes
      const auto walk = [&]<int C>(int64_t d, int m, Count<C>) __attribute__((always_inline)) {
        V zv[C];
        for (int j = 0; j < C; ++j) {
          zv[j] = load(from + d + j * W, m, z_end), store(z + d + j * W, zv[j]);
        }
        for (int64_t k = 0; k + 1 < K; ++k) {
          const P *const uk = ui + k * a.u_layer + d, *const wk = wi + k * a.w_layer + d;
          const T t = l.t[k * R + i], c = l.c[k * R + i];
          T* const to = z + (k + 1) * z_layer + d;
          for (int j = 0; j < C; ++j) {
            zv[j] += t * (load(uk + j * W, m, u_end) + c * load(wk + j * W, m, w_end));
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

  // g from the gradient of the output, and its products with the first layer's parameters.
  void start(int64_t r0, int n, int64_t k, T* g, const Scalars& l, V* gu, V* gw) const {
    for (int i = 0; i < n; ++i, g += Dp) {
      const S* const from = (const S*)a.gz + (r0 + i) * a.gz_row;
      const P *const ui = this->u(r0 + i, k), *const wi = this->w(r0 + i, k);
      const T ci = l.c[k * R + i];
      this->template prefetch_row<1>((const S*)a.z_out + (r0 + i) * D);
      V x[2] = {}, y[2] = {};
      for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        const V gv = load(from + d, m, gz_end), wv = load(wi + d, m, w_end);
        store(g + d, gv);
        x[j] += gv * (load(ui + d, m, u_end) + ci * wv);
        y[j] += gv * wv;
      });
      gu[i] = x[0] + x[1], gw[i] = y[0] + y[1];
    }
  }

  template <bool kInverse, bool kStream, bool kLast>
  void step(int64_t r0, int n, int64_t k, const T* z, T* g, const Scalars& l, const T* gl, V* gu, V* gw) const {
    alignas(64) T ga[W], gx[W], on_w[W], pull[W], c_pull[W];
    const int64_t at = k * R;
    const V h = load(l.h + at), t = load(l.t + at), c = load(l.c + at), n2 = load(l.n2 + at), glv = load(gl);
    const V by_logdet = glv * load(l.by_a + at);
    const V g_uhat = horizontal_sums(gu);
    V gwv = horizontal_sums(gw), gav;
    if constexpr (kInverse) {
      gav = by_logdet - h * load(l.inverse + at) * (g_uhat + by_logdet * load(l.s + at));
      gwv += gav * n2;  // n2 is 1 where w = 0, and counts for nothing there: c = 0 and slope = 1
    } else {
      gav = g_uhat * h + by_logdet;
    }
    const V pulling = kInverse ? -t : t, gc = pulling * gwv;
    store(ga, gav), store(pull, pulling), store(c_pull, c * pulling);
    store(gx, glv * load(l.by_x + at) + gc * (load(l.slope + at) - 1.0f) / n2);
    store(on_w, -2.0f * gc * c / n2);

    const int64_t next_k = kLast ? k : kInverse ? k + 1 : k - 1;
    for (int i = 0; i < n; ++i, g += Dp, z += Dp) {
      const int64_t r = r0 + i;
      this->prefetch(r + W, k);  // of the next block, while there is much to compute
      if constexpr (kLast) {
        this->template prefetch_row<0>((const S*)a.z + (r + W) * a.z_row);
        this->template prefetch_row<0>((const S*)a.gz + (r + W) * a.gz_row);
      }
      const P *const ui = this->u(r, k), *const wi = this->w(r, k), *const next_u = this->u(r, next_k),
                     *const next_w = this->w(r, next_k);
      P *const to_u = (P*)a.gu + r * a.gu_group + k * a.gu_layer, *const to_w =
                                                                      (P*)a.gw + r * a.gw_group + k * a.gw_layer;
      S* const to_z = (S*)a.z_out + r * D;
      if constexpr (!kStream) {  // each line is read before it is written, and no stream to be seen in these either
        for (int64_t d = 0; d < D; d += 64 / sizeof(P)) {
          __builtin_prefetch(to_u + W * a.gu_group + d, 1, 2);
          __builtin_prefetch(to_w + W * a.gw_group + d, 1, 2);
        }
      }
      const T ti = pull[i], gai = ga[i], gxi = gx[i], cti = c_pull[i], wi_by = on_w[i], next_c = l.c[next_k * R + i];
      V x[2] = {}, y[2] = {};
      for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        const V uv = load(ui + d, m, u_end), wv = load(wi + d, m, w_end), old = load(g + d), next = old + gai * wv;
        const V pulled = kInverse ? next : old;
        store(to_u + d, ti * pulled + gxi * wv, m, kStream && (uintptr_t)(to_u + d) % 32 == 0);
        store(to_w + d, gai * load(z + d) + cti * pulled + wi_by * wv + gxi * uv, m,
              kStream && (uintptr_t)(to_w + d) % 32 == 0);
        if constexpr (kLast) {
          store(to_z + d, next, m);
        } else {
          store(g + d, next);
          const V next_wv = load(next_w + d, m, w_end);
          x[j] += next * (load(next_u + d, m, u_end) + next_c * next_wv);
          y[j] += next * next_wv;
        }
      });
      gu[i] = x[0] + x[1], gw[i] = y[0] + y[1];
      store((P*)a.gb + r * a.gb_group + k * a.gb_layer, V{} + gai, 1);
    }
  }
};

}  // namespace ORD_ISA
