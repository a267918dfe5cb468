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

// S: storage type of the rows; P: of the parameters.
template <class S, class P = S, int kD = 0>
struct Flow : Width<kD> {
  using T = typename Traits<S>::T;
  using V = typename Traits<S>::V;
  using Width<kD>::D, Width<kD>::Dp;
  static constexpr int W = kLanes<T>, R = kFlowRows;

  const FlowArgs& a;
  const int64_t K = a.K;
  const P *u_end, *w_end;  // where the tensors end: vectors may read up to there
  const S* z_end;

  explicit Flow(const FlowArgs& args) : Width<kD>(args.D), a(args) {
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

  // A layer's parameters are 2D numbers here and there: too short for the hardware to see a stream coming.
  void prefetch(int64_t g, int64_t k) const {
    constexpr int64_t line = 64 / sizeof(P);
    const P *const ug = u(g, k), *const wg = w(g, k);
    for (int64_t d = 0; d < D; d += line) {
      __builtin_prefetch(ug + d, 0, 2);
      __builtin_prefetch(wg + d, 0, 2);
    }
  }

  // The next block's rows, every second of them: those between are asked for in dot_products, so that the memory is never idle.
  void prefetch_rows(int64_t r0, int first, int last, int64_t k) const {
    for (int i = first; i < last; i += 2) prefetch(r0 + R + i, k);
  }

  // z [n, Dp] += t uhat
  void move(T* z, const T* t, const T* c, int64_t r0, int n, int64_t k, const GroupParams<T>* p) const {
    const P *ui = u(r0, k), *wi = w(r0, k);
    const int64_t u_step = a.u_group, w_step = a.w_group;
    for (int i = 0; i < n; ++i, z += Dp, ui += u_step, wi += w_step) {
      const T ti = t[i], ci = c[i];
      if (p) {
        const T* const uh = p->uhat + k * Dp;
        for (int64_t d = 0; d < Dp; d += W) store(z + d, load(z + d) + ti * load(uh + d));
      } else {
        vectors<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
          store(z + d, load(z + d) + ti * (load(ui + d, m, u_end) + ci * load(wi + d, m, w_end)));
        });
      }
    }
  }

  // Rows [r0, r0 + n), n <= R. `p`: the parameters they share, or none and each row has its own.
  //
  // A layer's scalars are a long chain of dependent operations. So a block goes in parts: while one part's chain is under
  // way, the processor has the sums of the next part to look ahead to.
  template <bool kInverse>
  void block(int64_t r0, int n, T* z, const GroupParams<T>* p) const {
    alignas(64) T log_det[R] = {}, t[R] = {}, c[R] = {};
    for (int i = 0; i < n; ++i) load_row((const S*)a.z + (r0 + i) * a.z_row, z_end, z + i * Dp);
    for (int64_t layer = 0; layer < K; ++layer) {
      const int64_t k = kInverse ? K - 1 - layer : layer, before = kInverse ? k + 1 : k - 1;
      constexpr int kPart = kInverse ? R : W;
      for (int i = 0; i < n; i += kPart) {
        const int m = n - i < kPart ? n - i : kPart;
        part<kInverse, kPart>(r0 + i, m, k, layer ? before : -1, z + i * Dp, t + i, c + i, log_det + i, p);
      }
    }
    const int64_t last = kInverse ? 0 : K - 1;
    const P *ui = u(r0, last), *wi = w(r0, last);
    for (int i = 0; i < n; ++i) {
      const T ti = t[i], ci = c[i], *const zi = z + i * Dp, *const uh = p ? p->uhat + last * Dp : nullptr;
      S* const to = (S*)a.z_out + (r0 + i) * D;
      if (p) {
        vectors<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) { store(to + d, load(zi + d) + ti * load(uh + d), m); });
      } else {
        vectors<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
          store(to + d, load(zi + d) + ti * (load(ui + d, m, u_end) + ci * load(wi + d, m, w_end)), m);
        });
        ui += a.u_group, wi += a.w_group;
      }
      ((T*)a.log_det)[r0 + i] = log_det[i];
    }
  }

  // Layer k of rows [r0, r0 + n), n <= kRows, after the move by layer `before` (if not -1), whose tanh and c are in t and c:
  // z, log_det, and then t and c of this layer.
  template <bool kInverse, int kRows>
  void part(int64_t r0, int n, int64_t k, int64_t before, T* z, T* t, T* c, T* log_det, const GroupParams<T>* p) const {
    alignas(64) T pre[kRows], s[kRows], sp[kRows], x[kRows], h[kRows];
    V wz[kRows], wu[kRows], ww[kRows];  // products, to be summed over their lanes
    for (int i = n; i < kRows; ++i) wz[i] = wu[i] = ww[i] = V{};
    // Written one by one long before they are read as a vector: no such load is served from stores that are under way.
    for (int i = 0; i < kRows; ++i) pre[i] = i >= n ? 0 : p ? p->b[k] : b(r0 + i, k);
    if (p) {
      const T *const wk = p->w + k * Dp, *const uh = p->uhat + before * Dp;
      for (int i = 0; i < n; ++i) {
        T* const zi = z + i * Dp;
        const T ti = t[i];
        V q[2] = {};
        if (before >= 0) {
          vectors_by_two<T>(Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) {
            const V zv = load(zi + d) + ti * load(uh + d);
            store(zi + d, zv);
            q[j] += load(wk + d) * zv;
          });
        } else {
          vectors_by_two<T>(Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) { q[j] += load(wk + d) * load(zi + d); });
        }
        wz[i] = q[0] + q[1];
      }
    } else {
      before >= 0 ? dot_products<true>(r0, n, k, before, z, t, c, wz, wu, ww) : dot_products<false>(r0, n, k, k, z, t, c, wz, wu, ww);
    }
    if (!p) prefetch_rows(r0, 0, n / 2, k);
    for (int i = 0; i < kRows; i += W) {
      const auto l = p ? p->terms(k) : layer_terms(sum_each(wu + i), sum_each(ww + i), a.mode);
      store(pre + i, sum_each(wz + i) + load(pre + i));
      store(c + i, l.c), store(s + i, l.s), store(x + i, l.x), store(sp + i, l.sp);
    }
    if constexpr (kInverse) solve_layers(pre, s, sp, n);
    if (!p) prefetch_rows(r0, n / 2, n, k);
    for (int i = 0; i < kRows; i += W) {
      V tv, hv;
      tanh_sech2(load(pre + i), tv, hv);
      store(t + i, kInverse ? -tv : tv), store(h + i, hv);
    }
    for (int i = 0; i < kRows; i += W) {
      const LayerTerms<V> l = {V{}, load(s + i), load(x + i), load(sp + i), V{}, V{}};
      store(log_det + i, load(log_det + i) + log_abs_det(load(t + i), load(h + i), l, a.mode));
    }
    T* to = (T*)a.act + r0 * K + k;
    for (int i = 0; i < n; ++i, to += K) *to = pre[i];
  }

  // z += t uhat of layer `before` if kMove, then products of w.z, w.u and w.w of layer k.
  template <bool kMove>
  void dot_products(int64_t r0, int n, int64_t k, int64_t before, T* z, const T* t, const T* c, V* wz, V* wu, V* ww) const {
    const P *ui = u(r0, k), *wi = w(r0, k), *uh = u(r0, before), *wh = w(r0, before);
    const int64_t u_step = a.u_group, w_step = a.w_group;
    for (int i = 0; i < n; ++i, z += Dp, ui += u_step, wi += w_step, uh += u_step, wh += w_step) {
      if (i & 1) prefetch(r0 + R + i, k);
      const T ti = t[i], ci = c[i];
      V q[2] = {}, y[2] = {}, v[2] = {};
      vectors_by_two<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        const V wv = load(wi + d, m, w_end);
        V zv = load(z + d);
        if constexpr (kMove) {
          zv += ti * (load(uh + d, m, u_end) + ci * load(wh + d, m, w_end));
          store(z + d, zv);
        }
        q[j] += wv * zv;
        y[j] += wv * load(ui + d, m, u_end);
        v[j] += wv * wv;
      });
      wz[i] = q[0] + q[1], wu[i] = y[0] + y[1], ww[i] = v[0] + v[1];
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
    case FlowType::f32:
      return a.D == 64 ? run(Flow<float, float, 64>(a), (float*)scratch) : run(Flow<float>(a), (float*)scratch);
    case FlowType::f64: return run(Flow<double>(a), (double*)scratch);
    case FlowType::bf16: return wide ? run(Flow<bf16, float>(a), (float*)scratch) : run(Flow<bf16>(a), (float*)scratch);
    case FlowType::f16: return wide ? run(Flow<f16, float>(a), (float*)scratch) : run(Flow<f16>(a), (float*)scratch);
  }
}

}  // namespace ORD_ISA
