// Planar flows and their inverses over a range of rows. Rows go in blocks: dot products row by row, then tanh, log and
// softplus of the whole block as vectors, then the update. The block's state z stays in scratch, in the compute type.
//
// Four layers of D = 64 take 275 cycles a row on Zen 4 with parameters of each row's own, wherever they are cached: 83
// for w.u and |w|^2, 106 for the moves and w.z, 21 for the last move; 100 loads and 80 products of vectors. Tried,
// within 3 %: blocks of 8 or 12 rows, two blocks in turns, the next block's products while a tanh is waited for, and
// 256-bit vectors.
#pragma once
#include "cpu/ops/planar_flow_args.h"
#include "cpu/ops/planar_flow_math.h"

namespace ORD_ISA {

#define ORD_TARGET
#include "cpu/simd/transpose.h"
#undef ORD_TARGET

// One group's parameters in the compute type, and their terms.
template <class T>
struct GroupParams {
  T *uhat, *w;                         // [K, Dp], zeros behind D
  T *b, *c, *s, *x, *sp, *slope, *n2;  // [K]

  GroupParams(T* scratch, int64_t K, int64_t Dp) : uhat(scratch), w(uhat + K * Dp) {
    T** const scalars[] = {&b, &c, &s, &x, &sp, &slope, &n2};
    T* next = w + K * Dp;
    for (T** p : scalars) {
      *p = next, next += K;
    }
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
    for_each_vector<T>(D,
                       [&](int64_t d, int n) __attribute__((always_inline)) { store(to + d, load(from + d, n, end)); });
    for (int64_t d = (D + W - 1) / W * W; d < Dp; d += W) {
      store(to + d, V{});
    }
  }
  void store_row(const T* from, S* to) const {
    for_each_vector<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) { store(to + d, load(from + d), n); });
  }

  void load_group(int64_t g, GroupParams<T>& p) const {
    for (int64_t k = 0; k < K; ++k) {
      V wu = {}, ww = {};
      for_each_vector<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) {
        const V uv = load(u(g, k) + d, n, u_end), wv = load(w(g, k) + d, n, w_end);
        wu += wv * uv;
        ww += wv * wv;
        store(p.w + k * Dp + d, wv);
      });
      const auto l = layer_terms(V{} + sum(wu), V{} + sum(ww), a.mode);
      p.b[k] = a.b ? b(g, k) : 0, p.c[k] = l.c[0], p.s[k] = l.s[0], p.x[k] = l.x[0], p.sp[k] = l.sp[0],
      p.slope[k] = l.slope[0], p.n2[k] = l.n2[0];
      for_each_vector<T>(D, [&](int64_t d, int n) __attribute__((always_inline)) {
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

  // A row of z or of what is made of it.
  template <int kWrite>
  void prefetch_row(const S* p) const {
    for (int64_t d = 0; d < D; d += 64 / sizeof(S)) {
      __builtin_prefetch(p + d, kWrite, 2);
    }
  }

  // What the layers make of a block's rows, [K, R] each: terms, then tanh and sech^2.
  struct Scalars {
    T *c, *s, *x, *sp, *t, *h;
    Scalars(T* scratch, int64_t K) {
      T** const all[kFlowScalars] = {&c, &s, &x, &sp, &t, &h};
      for (T** p : all) {
        *p = scratch, scratch += K * R;
      }
    }
    void set_terms(int64_t at, const LayerTerms<V>& l) const {
      store(c + at, l.c), store(s + at, l.s), store(x + at, l.x), store(sp + at, l.sp);
    }
    LayerTerms<V> terms(int64_t at) const {
      return {load(c + at), load(s + at), load(x + at), load(sp + at), V{}, V{}};
    }
  };

  void shared_terms(const Scalars& q, const GroupParams<T>& p) const {
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = k * R; i < (k + 1) * R; i += W) {
        q.set_terms(i, p.terms(k));
      }
    }
  }

  // w.u and |w|^2 of the layers of rows [r0, r0 + n), n <= W, [K, R] each, read in memory order. A row's products of a
  // few layers are summed over their lanes together while they are in registers, and only their numbers change places
  // with the other rows'.
  inline __attribute__((always_inline)) void products(int64_t r0, int n, T* wu, T* ww) const {
    constexpr int kAtOnce = W < 8 ? W : 8, kLayers = kAtOnce / 2;
    alignas(64) T sums[W * kAtOnce];
    for (int i = n * kAtOnce; i < W * kAtOnce; ++i) {
      sums[i] = 0;
    }
    for (int64_t k0 = 0; k0 < K; k0 += kLayers) {
      const int layers = K - k0 < kLayers ? K - k0 : kLayers;
      for (int i = 0; i < n; ++i) {
        const P *uk = u(r0 + i, k0), *wk = w(r0 + i, k0);
        V y[kAtOnce] = {};
#pragma GCC unroll 4
        for (int k = 0; k < kLayers; ++k, uk += a.u_layer, wk += a.w_layer) {
          if (k == layers) {
            break;
          }
          V by_u[2] = {}, by_w[2] = {};
          for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
            const V wv = load(wk + d, m, w_end);
            by_u[j] += wv * load(uk + d, m, u_end);
            by_w[j] += wv * wv;
          });
          y[2 * k] = by_u[0] + by_u[1], y[2 * k + 1] = by_w[0] + by_w[1];
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
          store(wu + (k0 + k) * R, v[2 * k]), store(ww + (k0 + k) * R, v[2 * k + 1]);
        }
      }
    }
  }

  // They wait for no state: a row's parameters are read in one go, and all layers' chains of scalar functions run side
  // by side.
  void own_terms(int64_t r0, int n, const Scalars& q) const {
    for (int i = 0; i < n; i += W) {
      products(r0 + i, n - i < W ? n - i : W, q.x + i, q.s + i);  // cached there until all are made
    }
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = k * R; i < k * R + n; i += W) {
        q.set_terms(i, layer_terms(load(q.x + i), load(q.s + i), a.mode));
      }
    }
  }

  // Rows [r0, r0 + n), n <= R. `p`: the parameters they share, or none and each row has its own.
  //
  // A layer waits for the tanh of the one before. What no layer waits for, the determinants, is left to the end, where
  // all layers' chains of scalar functions run side by side.
  template <bool kInverse>
  void block(int64_t r0, int n, T* z, const Scalars& q, const GroupParams<T>* p) const {
    for (int i = 0; i < n; ++i) {
      load_row((const S*)a.z + (r0 + i) * a.z_row, z_end, z + i * Dp);
    }
    if (!p) {
      own_terms(r0, n, q);
    }
    for (int64_t layer = 0; layer < K; ++layer) {
      const int64_t k = kInverse ? K - 1 - layer : layer, before = kInverse ? k + 1 : k - 1;
      move_and_layer<kInverse>(r0, n, k, layer ? before : -1, z, q, p);
    }
    for (int i = 0; i < n; i += W) {
      V sum = {};
      for (int64_t layer = 0; layer < K; ++layer) {
        const int64_t at = (kInverse ? K - 1 - layer : layer) * R + i;
        sum += log_abs_det(load(q.t + at), load(q.h + at), q.terms(at), a.mode);
      }
      store((T*)a.log_det + r0 + i, sum, n - i < W ? n - i : W);
    }
    const int64_t last = kInverse ? 0 : K - 1;
    const T *const t = q.t + last * R, *const c = q.c + last * R;
    const P *ui = u(r0, last), *wi = w(r0, last);
    for (int i = 0; i < n; ++i) {
      const T ti = t[i], ci = c[i], *const zi = z + i * Dp, *const uh = p ? p->uhat + last * Dp : nullptr;
      S* const to = (S*)a.z_out + (r0 + i) * D;
      if (p) {
        for_each_vector<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
          store(to + d, load(zi + d) + ti * load(uh + d), m);
        });
      } else {
        for_each_vector<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
          store(to + d, load(zi + d) + ti * (load(ui + d, m, u_end) + ci * load(wi + d, m, w_end)), m);
        });
        ui += a.u_group, wi += a.w_group;
      }
    }
  }

  // The tanh of layer k, after the move by layer `before` (if not -1).
  template <bool kInverse>
  void move_and_layer(int64_t r0, int n, int64_t k, int64_t before, T* z, const Scalars& q,
                      const GroupParams<T>* p) const {
    alignas(64) T pre[R];
    V wz[R];  // products, to be summed over their lanes
    for (int i = n; i < R; ++i) {
      wz[i] = V{};
    }
    const T *const moved = q.t + before * R, *const by = q.c + before * R;
    if (p) {
      const T *const wk = p->w + k * Dp, *const uh = p->uhat + before * Dp;
      for (int i = 0; i < n; ++i) {
        T* const zi = z + i * Dp;
        V sums[2] = {};
        if (before >= 0) {
          const T ti = moved[i];
          for_each_vector_x2<T>(Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) {
            const V zv = load(zi + d) + ti * load(uh + d);
            store(zi + d, zv);
            sums[j] += load(wk + d) * zv;
          });
        } else {
          for_each_vector_x2<T>(Dp, [&](int64_t d, int, int j)
                                        __attribute__((always_inline)) { sums[j] += load(wk + d) * load(zi + d); });
        }
        wz[i] = sums[0] + sums[1];
      }
    } else {
      before >= 0 ? dot_products<true>(r0, n, k, before, z, moved, by, wz)
                  : dot_products<false>(r0, n, k, k, z, nullptr, nullptr, wz);
    }
    for (int i = 0; i < n; i += W) {
      store(pre + i, horizontal_sums(wz + i) + (p ? V{} + p->b[k] : V{}));
    }
    if constexpr (kInverse) {
      solve_layers(pre, q.s + k * R, q.sp + k * R, n);
    }
    for (int i = 0; i < n; i += W) {
      V tv, hv;
      tanh_sech2(load(pre + i), tv, hv);
      store(q.t + k * R + i, kInverse ? -tv : tv), store(q.h + k * R + i, hv);
    }
    T* to = (T*)a.act + r0 * K + k;
    for (int i = 0; i < n; ++i, to += K) {
      *to = pre[i];
    }
  }

  // z += t uhat of layer `before` if kMove, then the products w.z of layer k.
  template <bool kMove>
  void dot_products(int64_t r0, int n, int64_t k, int64_t before, T* z, const T* t, const T* c, V* wz) const {
    const P *wi = w(r0, k), *uh = u(r0, before), *wh = w(r0, before);
    const int64_t u_step = a.u_group, w_step = a.w_group;
    for (int i = 0; i < n; ++i, z += Dp, wi += w_step, uh += u_step, wh += w_step) {
      prefetch(r0 + R + i, k);  // of the next block, while there is much to compute
      if constexpr (!kMove) {   // the first layer
        prefetch_row<0>((const S*)a.z + (r0 + R + i) * a.z_row);
        prefetch_row<1>((const S*)a.z_out + (r0 + i) * D);
      }
      const T ti = kMove ? t[i] : 0, ci = kMove ? c[i] : 0;
      V sums[2] = {{b(r0 + i, k)}};  // in the first lane
      for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        V zv = load(z + d);
        if constexpr (kMove) {
          zv += ti * (load(uh + d, m, u_end) + ci * load(wh + d, m, w_end));
          store(z + d, zv);
        }
        sums[j] += load(wi + d, m, w_end) * zv;
      });
      wz[i] = sums[0] + sums[1];
    }
  }

  // Rows [begin, end) of all G * N.
  template <bool kInverse>
  void run(int64_t begin, int64_t end, T* scratch) const {
    const Scalars q(scratch + R * Dp, K);
    if (a.N == 1) {
      for (int64_t r = begin; r < end; r += R) {
        block<kInverse>(r, end - r < R ? end - r : R, scratch, q, nullptr);
      }
      return;
    }
    GroupParams<T> p(scratch + R * Dp + kFlowScalars * K * R, K, Dp);
    for (int64_t r = begin; r < end;) {
      const int64_t g = r / a.N, stop = (g + 1) * a.N < end ? (g + 1) * a.N : end;
      load_group(g, p);
      shared_terms(q, p);
      for (; r < stop; r += R) {
        block<kInverse>(r, stop - r < R ? stop - r : R, scratch, q, &p);
      }
      r = stop;
    }
  }
};

// `wide`: the parameters are in the compute type.
void planar_flow(DType type, bool wide, bool inverse, const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  const auto run = [&](auto flow, auto* t) {
    inverse ? flow.template run<true>(begin, end, t) : flow.template run<false>(begin, end, t);
  };
  switch (type) {
    case DType::f32:
      return a.D == 64 ? run(Flow<float, float, 64>(a), (float*)scratch) : run(Flow<float>(a), (float*)scratch);
    case DType::f64: return run(Flow<double>(a), (double*)scratch);
    case DType::bf16: return wide ? run(Flow<bf16, float>(a), (float*)scratch) : run(Flow<bf16>(a), (float*)scratch);
    case DType::f16: return wide ? run(Flow<f16, float>(a), (float*)scratch) : run(Flow<f16>(a), (float*)scratch);
  }
}

}  // namespace ORD_ISA
