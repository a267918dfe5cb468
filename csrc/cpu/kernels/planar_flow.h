// Planar flows and their inverses over a range of rows. Rows go in blocks: dot products row by row, then tanh, log and
// softplus of the whole block as vectors, then the update. The block's state z stays in scratch, in the compute type.
#pragma once
#include "cpu/kernels/planar_flow_args.h"
#include "cpu/kernels/planar_flow_math.h"

namespace ORD_ISA {

// One group's parameters in the compute type, and their terms.
template <class T>
struct GroupParams {
  T *uhat, *w;                           // [K, Dp], zeros behind D
  T *b, *c, *s, *x, *sp, *slope, *n2;    // [K]

  GroupParams(T* scratch, int64_t K, int64_t Dp) : uhat(scratch), w(uhat + K * Dp) {
    T** const scalars[] = {&b, &c, &s, &x, &sp, &slope, &n2};
    T* next = w + K * Dp;
    for (T** p : scalars) *p = next, next += K;
  }
  LayerTerms<typename Traits<T>::V> terms(int64_t k) const {
    const typename Traits<T>::V o = {};
    return {o + c[k], o + s[k], o + x[k], o + sp[k], o + slope[k], o + n2[k]};
  }
};

// S: storage type of the rows; P: of the parameters.
template <class S, class P = S>
struct Flow {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  static constexpr int W = kLanes<T>, R = kFlowRows;

  const FlowArgs& a;
  const int64_t K = a.K, D = a.D, Dp = flow_padded(a.D);
  const P *u_end, *w_end;  // where the tensors end: vectors may read up to there
  const S* z_end;

  explicit Flow(const FlowArgs& args) : a(args) {
    u_end = (const P*)a.u + (a.G - 1) * a.u_group + (K - 1) * a.u_layer + D;
    w_end = (const P*)a.w + (a.G - 1) * a.w_group + (K - 1) * a.w_layer + D;
    z_end = (const S*)a.z + (a.G * a.N - 1) * a.z_row + D;
  }

  const P* u(int64_t g, int64_t k) const { return (const P*)a.u + g * a.u_group + k * a.u_layer; }
  const P* w(int64_t g, int64_t k) const { return (const P*)a.w + g * a.w_group + k * a.w_layer; }
  T b(int64_t g, int64_t k) const { return number(((const P*)a.b)[g * a.b_group + k * a.b_layer]); }

  // Row r of a [rows, D] tensor into scratch, zeros behind.
  void load_row(const S* from, const S* end, T* to) const {
    vectors<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) { store(to + d, load(from + d, n, end)); });
    for (int64_t d = (D + W - 1) / W * W; d < Dp; d += W) store(to + d, V{});
  }
  void store_row(const T* from, S* to) const {
    vectors<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) { store(to + d, load(from + d), n); });
  }

  void load_group(int64_t g, GroupParams<T>& p) const {
    for (int64_t k = 0; k < K; ++k) {
      V wu = {}, ww = {};
      vectors<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) {
        const V uv = load(u(g, k) + d, n, u_end), wv = load(w(g, k) + d, n, w_end);
        wu += wv * uv;
        ww += wv * wv;
        store(p.w + k * Dp + d, wv);
      });
      const auto l = layer_terms(V{} + sum(wu), V{} + sum(ww), a.mode);
      p.b[k] = a.b ? b(g, k) : 0, p.c[k] = l.c[0], p.s[k] = l.s[0], p.x[k] = l.x[0], p.sp[k] = l.sp[0], p.slope[k] = l.slope[0], p.n2[k] = l.n2[0];
      vectors<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) {
        store(p.uhat + k * Dp + d, load(u(g, k) + d, n, u_end) + l.c * load(w(g, k) + d, n, w_end));
      });
      for (int64_t d = (D + W - 1) / W * W; d < Dp; d += W) {
        store(p.uhat + k * Dp + d, V{});
        store(p.w + k * Dp + d, V{});
      }
    }
  }

  // z [n, Dp] += sign t uhat
  void move(T* z, const T* t, const T* c, int64_t r0, int n, int64_t k, const GroupParams<T>* p) const {
    for (int i = 0; i < n; ++i) {
      T* const zi = z + i * Dp;
      const T ti = t[i], ci = c[i];
      if (p) {
        const T* const uh = p->uhat + k * Dp;
        for (int64_t d = 0; d < Dp; d += W) store(zi + d, load(zi + d) + ti * load(uh + d));
      } else {
        const P *const ui = u(r0 + i, k), *const wi = w(r0 + i, k);
        vectors<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) {
          store(zi + d, load(zi + d) + ti * (load(ui + d, n, u_end) + ci * load(wi + d, n, w_end)));
        });
      }
    }
  }

  // Rows [r0, r0 + n), n <= R. `p`: the parameters they share, or none and each row has its own.
  template <bool kInverse>
  void block(int64_t r0, int n, T* z, const GroupParams<T>* p) const {
    T log_det[R] = {};
    for (int i = 0; i < n; ++i) load_row((const S*)a.z + (r0 + i) * a.z_row, z_end, z + i * Dp);
    for (int64_t layer = 0; layer < K; ++layer) {
      const int64_t k = kInverse ? K - 1 - layer : layer;
      alignas(64) T pre[R] = {}, wu[R] = {}, ww[R] = {}, t[R], c[R];
      for (int i = 0; i < n; ++i) {
        const T* const zi = z + i * Dp;
        V x = {}, y = {}, q = {};
        if (p) {
          const T* const wk = p->w + k * Dp;
          for (int64_t d = 0; d < Dp; d += W) x += load(wk + d) * load(zi + d);
          pre[i] = sum(x) + p->b[k];
        } else {
          const P *const ui = u(r0 + i, k), *const wi = w(r0 + i, k);
          vectors<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
            const V wv = load(wi + d, m, w_end);
            x += wv * load(zi + d);
            y += wv * load(ui + d, m, u_end);
            q += wv * wv;
          });
          pre[i] = sum(x) + b(r0 + i, k), wu[i] = sum(y), ww[i] = sum(q);
        }
      }
      for (int i = 0; i < n; i += W) {
        const auto l = p ? p->terms(k) : layer_terms(load(wu + i), load(ww + i), a.mode);
        V av = load(pre + i), tv, hv;
        if constexpr (kInverse) av = solve_layer(av, l.s, l.sp, sizeof(T) == 8 ? 2.2e-16f : 1.2e-7f);
        tanh_sech2(av, tv, hv);
        store(log_det + i, load(log_det + i) + log_abs_det(tv, hv, l, a.mode));
        store(pre + i, av);
        store(t + i, kInverse ? -tv : tv);
        store(c + i, l.c);
      }
      for (int i = 0; i < n; ++i) ((T*)a.act)[(r0 + i) * K + k] = pre[i];
      move(z, t, c, r0, n, k, p);
    }
    for (int i = 0; i < n; ++i) {
      store_row(z + i * Dp, (S*)a.z_out + (r0 + i) * D);
      ((T*)a.log_det)[r0 + i] = log_det[i];
    }
  }

  // Rows [begin, end) of all G * N.
  template <bool kInverse>
  void run(int64_t begin, int64_t end, T* scratch) const {
    if (a.N == 1) {
      for (int64_t r = begin; r < end; r += R) block<kInverse>(r, end - r < R ? end - r : R, scratch, nullptr);
      return;
    }
    GroupParams<T> p(scratch + R * Dp, K, Dp);
    for (int64_t r = begin; r < end;) {
      const int64_t g = r / a.N, stop = (g + 1) * a.N < end ? (g + 1) * a.N : end;
      load_group(g, p);
      for (; r < stop; r += R) block<kInverse>(r, stop - r < R ? stop - r : R, scratch, &p);
      r = stop;
    }
  }
};

// `wide`: the parameters are in the compute type.
void planar_flow(FlowType type, bool wide, bool inverse, const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  const auto run = [&](auto flow, auto* t) { inverse ? flow.template run<true>(begin, end, t) : flow.template run<false>(begin, end, t); };
  switch (type) {
    case FlowType::f32: return run(Flow<float>(a), (float*)scratch);
    case FlowType::f64: return run(Flow<double>(a), (double*)scratch);
    case FlowType::bf16: return wide ? run(Flow<bf16, float>(a), (float*)scratch) : run(Flow<bf16>(a), (float*)scratch);
    case FlowType::f16: return wide ? run(Flow<f16, float>(a), (float*)scratch) : run(Flow<f16>(a), (float*)scratch);
  }
}

}  // namespace ORD_ISA
