// Gradients of planar flows whose rows share their parameters in groups; planar_flow_gradients.h has the formulas.
#pragma once
#include "cpu/ops/planar_flow_params.h"

namespace ORD_ISA {

template <class Scalar, int kD, bool kScaled>
struct FlowGroupsBackward : Flow<Scalar, kD, kScaled> {
  using Base = Flow<Scalar, kD, kScaled>;
  using Base::a, Base::K, Base::D, Base::Dp, Base::W, Base::R;
  using typename Base::T, typename Base::V;

  explicit FlowGroupsBackward(const FlowArgs& args) : Base(args) {}

  // Sums over a group's rows: of the gradient of uhat, of ga z [K, Dp], of the log-det's by w.u, and of ga [K].
  struct Sums {
    T *uhat, *az, *gx, *ga;
    Sums(T* at, int64_t K, int64_t Dp) : uhat(at), az(at + K * Dp), gx(at + 2 * K * Dp), ga(gx + K) {}
  };
  int64_t sums_size() const { return K * (2 * Dp + 2); }

  // What the layers' scalars are, [K, R] each.
  struct Scalars {
    T *t, *h, *by_a, *by_x, *inverse;
    Scalars(T* next, int64_t K) {
      T** const all[] = {&t, &h, &by_a, &by_x, &inverse};
      for (T** p : all) {
        *p = next;
        next += K * R;
      }
    }
  };

  // Rows [r0, r0 + n) of a group: their states z [K, block, Dp], the gradient g [block, Dp], the group's parameters,
  // and the sums that take their gradients.
  struct Block {
    int64_t r0;
    int n;
    T *z, *g;
    Scalars l;
    const GroupParams<T>& p;
    Sums sums;
  };

  template <bool kInverse>
  void block(const Block& rows) const {
    const void *const z_end = this->rows_end(a.z, a.z_row), *const gz_end = this->rows_end(a.gz, a.gz_row);
    for (int i = 0; i < rows.n; ++i) {
      const int64_t r = rows.r0 + i;
      this->load_row(a.row_type, this->element(a.row_type, a.z, r * a.z_row), z_end, rows.z + i * Dp);
      this->load_row(a.row_type, this->element(a.row_type, a.gz, r * a.gz_row), gz_end, rows.g + i * Dp);
    }
    for (int64_t k = 0; k < K; ++k) {
      rebuild(rows, k);
    }
    for (int64_t layer = 0; layer < K; ++layer) {
      step<kInverse>(rows, kInverse ? layer : K - 1 - layer);
    }
    for (int i = 0; i < rows.n; ++i) {
      this->store_row(rows.g + i * Dp, rows.r0 + i);
    }
  }

  // The layer's scalars, and its output z[k + 1] (but the last) from z[k].
  void rebuild(const Block& rows, int64_t k) const {
    const Scalars& l = rows.l;
    alignas(64) T act[R] = {};
    for (int i = 0; i < rows.n; ++i) {
      act[i] = ((const T*)a.act_in)[(rows.r0 + i) * K + k];
    }
    const auto e = rows.p.terms(k);
    for (int i = 0; i < rows.n; i += W) {
      const int64_t at = k * R + i;
      V t, h, by_a, by_x, inverse;
      tanh_sech2(load(act + i), t, h);
      log_det_slopes(t, h, e, a.mode, by_a, by_x, inverse);
      store(l.t + at, t);
      store(l.h + at, h);
      store(l.by_a + at, by_a);
      store(l.by_x + at, by_x);
      store(l.inverse + at, inverse);
    }
    if (k + 1 == K) {
      return;
    }
    const T *from = rows.z + k * a.block * Dp, *const uh = rows.p.uhat + k * Dp;
    T* to = rows.z + (k + 1) * a.block * Dp;
    for (int i = 0; i < rows.n; ++i, from += Dp, to += Dp) {
      const T t = l.t[k * R + i];
      for (int64_t d = 0; d < Dp; d += W) {
        store(to + d, load(from + d) + t * load(uh + d));
      }
    }
  }

  template <bool kInverse>
  void step(const Block& rows, int64_t k) const {
    const int n = rows.n;
    alignas(64) T gl[R] = {}, ga[R], gx[R];
    V gu[R] = {};  // products of g and uhat, to be summed over their lanes
    const T *const uh = rows.p.uhat + k * Dp, *gi = rows.g;
    for (int i = 0; i < n; ++i, gi += Dp) {
      V x[2] = {};
      for_each_vector_x2<T>(
          Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) { x[j] += load(gi + d) * load(uh + d); });
      gu[i] = x[0] + x[1];
      gl[i] = ((const T*)a.gl)[rows.r0 + i];
    }
    const Scalars& l = rows.l;
    T* const t = l.t + k * R;
    for (int i = 0; i < n; i += W) {
      const int64_t at = k * R + i;
      const V h = load(l.h + at), tv = load(t + i), glv = load(gl + i), guv = horizontal_sums(gu + i),
              by_logdet = glv * load(l.by_a + at);
      store(ga + i,
            kInverse ? by_logdet - h * load(l.inverse + at) * (guv + by_logdet * rows.p.s[k]) : guv * h + by_logdet);
      store(gx + i, glv * load(l.by_x + at));
      if constexpr (kInverse) {
        store(t + i, -tv);
      }
    }
    add_rows<kInverse>(rows, k, ga);
    for (int i = 0; i < n; ++i) {
      rows.sums.gx[k] += gx[i];
      rows.sums.ga[k] += ga[i];
    }
  }

  // g [n, Dp] += ga w, and the sums over the rows.
  template <bool kInverse>
  void add_rows(const Block& rows, int64_t k, const T* ga) const {
    const int n = rows.n;
    T* const g = rows.g;
    const T *const z = rows.z + k * a.block * Dp, *const t = rows.l.t + k * R;
    for (int64_t d = 0; d < Dp; d += W) {
      const V wv = load(rows.p.w + k * Dp + d);
      V su = {}, sz = {};
      for (int i = 0; i < n; ++i) {
        const V old = load(g + i * Dp + d), next = old + ga[i] * wv;
        store(g + i * Dp + d, next);
        su += t[i] * (kInverse ? next : old);
        sz += ga[i] * load(z + i * Dp + d);
      }
      T *const to_u = rows.sums.uhat + k * Dp + d, *const to_z = rows.sums.az + k * Dp + d;
      store(to_u, load(to_u) + su);
      store(to_z, load(to_z) + sz);
    }
  }

  // Parts [begin, end) of all G * parts. A group of one part is finished here, others leave their sums in `partial`.
  template <bool kInverse>
  void run(int64_t begin, int64_t end, T* scratch) const {
    GroupParams<T> p(scratch + (K + 1) * a.block * Dp + 5 * K * R, K, Dp);
    T* const mine = p.w + K * Dp + 8 * K;
    T* const few = mine + sums_size();  // sums of a few blocks: adding 1e5 rows one by one would lose digits
    T *const z = scratch, *const g = z + K * a.block * Dp;
    Block block_rows{0, 0, z, g, Scalars(g + a.block * Dp, K), p, Sums(few, K, Dp)};
    const int64_t rows = (a.N + a.parts - 1) / a.parts;
    for (int64_t part = begin, loaded = -1; part < end; ++part) {
      const int64_t group = part / a.parts, first = part % a.parts * rows,
                    last = first + rows < a.N ? first + rows : a.N;
      if (group != loaded) {
        this->load_group(loaded = group, p);
      }
      T* const total = a.parts > 1 ? (T*)a.partial + part * sums_size() : mine;
      clear(total);
      clear(few);
      for (int64_t n = first, blocks = 0; n < last; n += a.block) {
        block_rows.r0 = group * a.N + n;
        block_rows.n = last - n < a.block ? last - n : a.block;
        block<kInverse>(block_rows);
        if (++blocks % 32 == 0) {
          add(few, total);
          clear(few);
        }
      }
      add(few, total);
      if (a.parts == 1) {
        finalize_grads(group, p, total, z);  // the block's states are done with
      }
    }
  }

  // Adds up the parts of group g, in order.
  void combine(int64_t g, T* scratch) const {
    GroupParams<T> p(scratch + (K + 1) * a.block * Dp + 5 * K * R, K, Dp);
    T* const total = p.w + K * Dp + 8 * K;
    this->load_group(g, p);
    clear(total);
    for (int64_t i = 0; i < a.parts; ++i) {
      add((T*)a.partial + (g * a.parts + i) * sums_size(), total);
    }
    finalize_grads(g, p, total, scratch);
  }

  void clear(T* sums) const {
    for (int64_t i = 0; i < sums_size(); ++i) {
      sums[i] = 0;
    }
  }
  void add(const T* __restrict from, T* __restrict to) const {
    for (int64_t i = 0; i < sums_size(); ++i) {
      to[i] += from[i];
    }
  }

  // The gradients of group g's parameters from the sums over its rows. `scratch` [2, Dp] is free by now.
  void finalize_grads(int64_t g, const GroupParams<T>& p, T* at, T* scratch) const {
    const Sums sums(at, K, Dp);
    T *const uk = scratch, *const wk = scratch + Dp;
    const void* const u_end = this->layers_end(a.u, a.u_group, a.u_layer);
    for (int64_t k = 0; k < K; ++k) {
      const T size = p.size[k], c = p.c[k];
      V y = {};
      for (int64_t d = 0; d < Dp; d += W) {
        y += load(sums.uhat + k * Dp + d) * this->scaled(load(p.w + k * Dp + d), size);
      }
      const T gc = sum(y), gx = sums.gx[k] + gc * (p.slope[k] - 1) / p.n2[k] / size, on_w = -2 * gc * c / p.n2[k];
      this->load_row(a.param_type, this->element(a.param_type, a.u, g * a.u_group + k * a.u_layer), u_end, uk);
      for (int64_t d = 0; d < Dp; d += W) {
        const V uv = load(uk + d), wv = load(p.w + k * Dp + d), pulled = load(sums.uhat + k * Dp + d);
        store(uk + d, pulled + gx * wv);
        const V by_uhat = this->scaled(c * pulled + on_w * this->scaled(wv, size), size);
        store(wk + d, load(sums.az + k * Dp + d) + by_uhat + gx * uv);
      }
      store_grad(uk, D, a.gu, g * a.gu_group + k * a.gu_layer);
      store_grad(wk, D, a.gw, g * a.gw_group + k * a.gw_layer);
      store_grad(sums.ga + k, 1, a.gb, g * a.gb_group + k * a.gb_layer);
    }
  }

  // n numbers to element i of a gradient, of the parameters' storage type.
  void store_grad(const T* from, int64_t n, void* grad, int64_t i) const {
    void* const to = this->element(a.param_type, grad, i);
    if (sizeof(T) == 4 && this->half_params) {
      from_float(a.param_type, (const float*)from, n, to);
    } else {
      __builtin_memcpy(to, from, n * sizeof(T));
    }
  }
};

}  // namespace ORD_ISA
