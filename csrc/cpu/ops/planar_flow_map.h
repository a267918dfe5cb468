// Planar flows and their inverses over a range of rows. Rows go in blocks: dot products row by row, then tanh, log and
// softplus of the whole block as vectors, then the update. The block's state z stays in scratch, in the compute type.
//
// Four layers of D = 64 take 275 cycles a row on Zen 4 with parameters of each row's own, wherever they are cached: 83
// for w.u and |w|^2, 106 for the moves and w.z, 21 for the last move; 100 loads and 80 products of vectors. Tried,
// within 3 %: blocks of 8 or 12 rows, two blocks in turns, the next block's products while a tanh is waited for, and
// 256-bit vectors.
#pragma once
#include "cpu/ops/planar_flow_params.h"

namespace ORD_ISA {

template <class Scalar, int kD, bool kScaled>
struct FlowMap : Flow<Scalar, kD, kScaled> {
  using Base = Flow<Scalar, kD, kScaled>;
  using Base::a, Base::K, Base::D, Base::Dp, Base::W, Base::R;
  using typename Base::T, typename Base::V;

  explicit FlowMap(const FlowArgs& args) : Base(args) {}

  // What the layers make of a block's rows, [K, R] each: terms, then tanh and sech^2. The size of scaled flows alone.
  struct Scalars {
    T *c, *s, *x, *sp, *t, *h, *size;
    Scalars(T* scratch, int64_t K) {
      T** const all[kFlowScalars] = {&c, &s, &x, &sp, &t, &h, &size};
      for (T** p : all) {
        *p = scratch;
        scratch += K * R;
      }
    }
    void set_terms(int64_t at, const LayerTerms<V>& l) const {
      store(c + at, l.c);
      store(s + at, l.s);
      store(x + at, l.x);
      store(sp + at, l.sp);
    }
    LayerTerms<V> terms(int64_t at) const {
      return {load(c + at), load(s + at), load(x + at), load(sp + at), V{}, V{}};
    }
  };

  // Rows [r0, r0 + n), n <= R, their states z [n, Dp] and parameters: of the group, or none and each row has its own.
  struct Block {
    int64_t r0;
    int n;
    T* z;
    Scalars q;
    const GroupParams<T>* group;
    OwnParams<T> own;
  };

  void shared_terms(const Scalars& q, const GroupParams<T>& p) const {
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = k * R; i < (k + 1) * R; i += W) {
        q.set_terms(i, p.terms(k));
      }
    }
  }

  // They wait for no state: a row's parameters are read in one go, and all layers' chains of scalar functions run side
  // by side.
  void own_terms(const Block& rows) const {
    const Scalars& q = rows.q;
    for (int i = 0; i < rows.n; i += W) {
      // kept in x and s until all are made
      this->products(rows.own, i, rows.n - i < W ? rows.n - i : W, q.x + i, q.s + i, q.size + i);
    }
    typename Base::Extent extent;
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = k * R; i < k * R + rows.n; i += W) {
        const V wu = load(q.x + i), ww = load(q.s + i);
        auto l = layer_terms(wu, ww, a.mode);
        extent.add(wu, ww, l);
        if constexpr (kScaled) {
          l.c /= load(q.size + i);
        }
        q.set_terms(i, l);
      }
    }
    this->note_extremes(extent);
  }

  // A layer waits for the tanh of the one before. What no layer waits for, the determinants, is left to the end, where
  // all layers' chains of scalar functions run side by side.
  template <bool kInverse>
  void block(const Block& rows) const {
    const void* const z_end = this->rows_end(a.z, a.z_row);
    for (int i = 0; i < rows.n; ++i) {
      this->load_row(a.row_type, this->element(a.row_type, a.z, (rows.r0 + i) * a.z_row), z_end, rows.z + i * Dp);
    }
    if (!rows.group) {
      own_terms(rows);
    }
    for (int64_t layer = 0; layer < K; ++layer) {
      const int64_t k = kInverse ? K - 1 - layer : layer, before = kInverse ? k + 1 : k - 1;
      move_and_layer<kInverse>(rows, k, layer ? before : -1);
    }
    log_dets<kInverse>(rows);
    last_move(rows, kInverse ? 0 : K - 1);
  }

  template <bool kInverse>
  void log_dets(const Block& rows) const {
    const Scalars& q = rows.q;
    for (int i = 0; i < rows.n; i += W) {
      V sum = {};
      for (int64_t layer = 0; layer < K; ++layer) {
        const int64_t at = (kInverse ? K - 1 - layer : layer) * R + i;
        sum += log_abs_det(load(q.t + at), load(q.h + at), q.terms(at), a.mode);
      }
      store((T*)a.log_det + rows.r0 + i, sum, rows.n - i < W ? rows.n - i : W);
    }
  }

  // z + t uhat of layer k, to z_out.
  void last_move(const Block& rows, int64_t k) const {
    const T *const t = rows.q.t + k * R, *const c = rows.q.c + k * R, *const sizes = rows.q.size + k * R;
    const OwnParams<T> p = rows.own;  // in registers: stores might change it where it lies
    const T* const uh = rows.group ? rows.group->uhat + k * Dp : nullptr;
    for (int i = 0; i < rows.n; ++i) {
      const T ti = t[i], ci = c[i], size = kScaled && !rows.group ? sizes[i] : 1;
      T* const zi = rows.z + i * Dp;
      T* const to = this->half_rows ? zi : (T*)a.z_out + (rows.r0 + i) * D;
      if (rows.group) {
        for_each_vector<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
          store(to + d, load(zi + d) + ti * load(uh + d), m);
        });
      } else {
        const T *const ui = p.u_at(i, k), *const wi = p.w_at(i, k);
        for_each_vector<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
          const V uhat = load(ui + d, m, p.u_end) + ci * this->scaled(load(wi + d, m, p.w_end), size);
          store(to + d, load(zi + d) + ti * uhat, m);
        });
      }
      if (this->half_rows) {
        this->store_row(zi, rows.r0 + i);
      }
    }
  }

  // The tanh of layer k, after the move by layer `before` (if not -1).
  template <bool kInverse>
  void move_and_layer(const Block& rows, int64_t k, int64_t before) const {
    alignas(64) T pre[R];
    V wz[R];  // products, to be summed over their lanes
    for (int i = rows.n; i < R; ++i) {
      wz[i] = V{};
    }
    if (rows.group) {
      shared_dot_products(rows, k, before, wz);
    } else if (before >= 0) {
      own_dot_products<true>(rows, k, before, wz);
    } else {
      own_dot_products<false>(rows, k, k, wz);
    }
    for (int i = 0; i < rows.n; i += W) {
      store(pre + i, horizontal_sums(wz + i) + (rows.group ? V{} + rows.group->b[k] : V{}));
    }
    const Scalars& q = rows.q;
    if constexpr (kInverse) {
      solve_layers(pre, q.s + k * R, q.sp + k * R, rows.n);
    }
    for (int i = 0; i < rows.n; i += W) {
      V tv, hv;
      tanh_sech2(load(pre + i), tv, hv);
      store(q.t + k * R + i, kInverse ? -tv : tv);
      store(q.h + k * R + i, hv);
    }
    T* to = (T*)a.act + rows.r0 * K + k;
    for (int i = 0; i < rows.n; ++i, to += K) {
      *to = pre[i];
    }
  }

  // z += t uhat of layer `before` (if not -1), then the products w.z of layer k.
  void shared_dot_products(const Block& rows, int64_t k, int64_t before, V* wz) const {
    const T *const wk = rows.group->w + k * Dp, *const uh = rows.group->uhat + before * Dp;
    for (int i = 0; i < rows.n; ++i) {
      T* const zi = rows.z + i * Dp;
      V sums[2] = {};
      if (before >= 0) {
        const T ti = rows.q.t[before * R + i];
        for_each_vector_x2<T>(Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) {
          const V zv = load(zi + d) + ti * load(uh + d);
          store(zi + d, zv);
          sums[j] += load(wk + d) * zv;
        });
      } else {
        for_each_vector_x2<T>(
            Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) { sums[j] += load(wk + d) * load(zi + d); });
      }
      wz[i] = sums[0] + sums[1];
    }
  }

  // The same with each row's own parameters; kMove: there is a layer before.
  template <bool kMove>
  void own_dot_products(const Block& rows, int64_t k, int64_t before, V* wz) const {
    const OwnParams<T> p = rows.own;  // in registers: stores might change it where it lies
    const T *wi = p.w_at(0, k), *uh = p.u_at(0, before), *wh = p.w_at(0, before);
    const T *const t = rows.q.t + before * R, *const c = rows.q.c + before * R, *const sizes = rows.q.size + before * R;
    T* z = rows.z;
    for (int i = 0; i < rows.n; ++i, z += Dp, wi += p.w_row, uh += p.u_row, wh += p.w_row) {
      this->prefetch(p, R + i, k);  // of the next block, while there is much to compute
      if constexpr (!kMove) {       // the first layer
        this->template prefetch_row<0>(a.z, rows.r0 + R + i, a.z_row);
        this->template prefetch_row<1>(a.z_out, rows.r0 + i, D);
      }
      const T ti = kMove ? t[i] : 0, ci = kMove ? c[i] : 0, size = kMove && kScaled ? sizes[i] : 1;
      V sums[2] = {{p.b_at(i, k)}};  // in the first lane
      for_each_vector_x2<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        V zv = load(z + d);
        if constexpr (kMove) {
          zv += ti * (load(uh + d, m, p.u_end) + ci * this->scaled(load(wh + d, m, p.w_end), size));
          store(z + d, zv);
        }
        sums[j] += load(wi + d, m, p.w_end) * zv;
      });
      wz[i] = sums[0] + sums[1];
    }
  }

  // Rows [begin, end) of all G * N.
  template <bool kInverse>
  void run(int64_t begin, int64_t end, T* scratch) const {
    Block rows{0, 0, scratch, Scalars(scratch + R * Dp, K), nullptr, {}};
    T* const params = scratch + R * Dp + kFlowScalars * K * R;
    if (a.N == 1) {
      for (int64_t r = begin; r < end; r += R) {
        rows.r0 = r;
        rows.n = end - r < R ? end - r : R;
        rows.own = this->own_params(r, rows.n, params);
        block<kInverse>(rows);
      }
      return;
    }
    GroupParams<T> p(params, K, Dp);
    rows.group = &p;
    for (int64_t r = begin; r < end;) {
      const int64_t g = r / a.N, stop = (g + 1) * a.N < end ? (g + 1) * a.N : end;
      this->load_group(g, p);
      shared_terms(rows.q, p);
      for (; r < stop; r += R) {
        rows.r0 = r;
        rows.n = stop - r < R ? stop - r : R;
        block<kInverse>(rows);
      }
      r = stop;
    }
  }
};

}  // namespace ORD_ISA
