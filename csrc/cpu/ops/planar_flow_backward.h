// Gradients of planar flows and of their inverses. A block of rows first rebuilds its states from the input and the
// saved a_k (going back from z_K would cancel), then walks the layers against the direction of the map.
//
// With g the gradient of a layer's output, both maps have the same form: ga = (gradient of a), g <- g + ga w, and
//   forward: ga = sech^2 (g.uhat) + gl dlogdet/da;         gradient of uhat: t g, with g before the update
//   inverse: ga = gl dlogdet/da - sech^2 (g'.uhat) / det;  gradient of uhat: -t g, with g after it;  g' = g + gl
//   dlogdet/da w
#pragma once
#include "cpu/ops/planar_flow.h"
#include "cpu/ops/planar_flow_backward_rows.h"

namespace ORD_ISA {

template <class S, class P = S, int kD = 0>
struct FlowBackward : Flow<S, P, kD> {
  using Base = Flow<S, P, kD>;
  using Base::a, Base::K, Base::D, Base::Dp, Base::u_end, Base::w_end, Base::z_end, Base::W, Base::R;
  using typename Base::T, typename Base::V;

  explicit FlowBackward(const FlowArgs& args) : Base(args) {}

  // Sums over a group's rows: of the gradient of uhat, of ga z [K, Dp], of the log-det's by w.u, and of ga [K].
  struct Sums {
    T *uhat, *az, *gx, *ga;
    Sums(T* at, int64_t K, int64_t Dp) : uhat(at), az(at + K * Dp), gx(at + 2 * K * Dp), ga(gx + K) {}
  };
  int64_t sums_size() const { return K * (2 * Dp + 2); }

  // What the layers' scalars are, [K, R] each.
  struct Scalars {
    T *t, *h, *by_a, *by_x, *inverse;
  };

  // Rows [r0, r0 + n) of a group; `sums` takes the gradients of its parameters `p`.
  template <bool kInverse>
  void block(int64_t r0, int n, T* scratch, const GroupParams<T>& p, Sums& sums) const {
    T* const z = scratch;  // [K, block, Dp]
    T* const g = z + K * a.block * Dp;
    Scalars l;
    {
      T** const all[] = {&l.t, &l.h, &l.by_a, &l.by_x, &l.inverse};
      T* next = g + a.block * Dp;
      for (T** q : all) {
        *q = next, next += K * R;
      }
    }
    const S* const gz_end = (const S*)a.gz + (a.G * a.N - 1) * a.gz_row + D;
    for (int i = 0; i < n; ++i) {
      this->load_row((const S*)a.z + (r0 + i) * a.z_row, z_end, z + i * Dp);
      this->load_row((const S*)a.gz + (r0 + i) * a.gz_row, gz_end, g + i * Dp);
    }
    for (int64_t k = 0; k < K; ++k) {
      rebuild(r0, n, k, z, l, p);
    }
    for (int64_t layer = 0; layer < K; ++layer) {
      const int64_t k = kInverse ? layer : K - 1 - layer;
      step<kInverse>(r0, n, k, z + k * a.block * Dp, g, l, p, sums);
    }
    for (int i = 0; i < n; ++i) {
      this->store_row(g + i * Dp, (S*)a.z_out + (r0 + i) * D);
    }
  }

  // The layer's scalars, and its output z[k + 1] (but the last) from z[k].
  void rebuild(int64_t r0, int n, int64_t k, T* z, const Scalars& l, const GroupParams<T>& p) const {
    alignas(64) T act[R] = {};
    for (int i = 0; i < n; ++i) {
      act[i] = ((const T*)a.act_in)[(r0 + i) * K + k];
    }
    const auto e = p.terms(k);
    for (int i = 0; i < n; i += W) {
      const int64_t at = k * R + i;
      V t, h, by_a, by_x, inverse;
      tanh_sech2(load(act + i), t, h);
      log_det_slopes(t, h, e, a.mode, by_a, by_x, inverse);
      store(l.t + at, t), store(l.h + at, h), store(l.by_a + at, by_a), store(l.by_x + at, by_x),
          store(l.inverse + at, inverse);
    }
    if (k + 1 == K) {
      return;
    }
    const T *from = z + k * a.block * Dp, *const uh = p.uhat + k * Dp;
    T* to = z + (k + 1) * a.block * Dp;
    for (int i = 0; i < n; ++i, from += Dp, to += Dp) {
      const T t = l.t[k * R + i];
      for (int64_t d = 0; d < Dp; d += W) {
        store(to + d, load(from + d) + t * load(uh + d));
      }
    }
  }

  template <bool kInverse>
  void step(int64_t r0, int n, int64_t k, const T* z, T* g, const Scalars& l, const GroupParams<T>& p,
            Sums& sums) const {
    alignas(64) T gl[R] = {}, ga[R], gx[R];
    V gu[R] = {};  // products of g and uhat, to be summed over their lanes
    const T *const uh = p.uhat + k * Dp, *gi = g;
    for (int i = 0; i < n; ++i, gi += Dp) {
      V x[2] = {};
      for_each_vector_x2<T>(
          Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) { x[j] += load(gi + d) * load(uh + d); });
      gu[i] = x[0] + x[1], gl[i] = ((const T*)a.gl)[r0 + i];
    }
    T* const t = l.t + k * R;
    for (int i = 0; i < n; i += W) {
      const int64_t at = k * R + i;
      const V h = load(l.h + at), tv = load(t + i), glv = load(gl + i), guv = horizontal_sums(gu + i),
              by_logdet = glv * load(l.by_a + at);
      store(ga + i, kInverse ? by_logdet - h * load(l.inverse + at) * (guv + by_logdet * p.s[k]) : guv * h + by_logdet);
      store(gx + i, glv * load(l.by_x + at));
      if constexpr (kInverse) {
        store(t + i, -tv);
      }
    }
    add_rows<kInverse>(n, k, z, g, t, ga, p, sums);
    for (int i = 0; i < n; ++i) {
      sums.gx[k] += gx[i], sums.ga[k] += ga[i];
    }
  }

  // g [n, Dp] += ga w, and the sums over the rows.
  template <bool kInverse>
  void add_rows(int n, int64_t k, const T* z, T* g, const T* t, const T* ga, const GroupParams<T>& p,
                Sums& sums) const {
    for (int64_t d = 0; d < Dp; d += W) {
      const V wv = load(p.w + k * Dp + d);
      V su = {}, sz = {};
      for (int i = 0; i < n; ++i) {
        const V old = load(g + i * Dp + d), next = old + ga[i] * wv;
        store(g + i * Dp + d, next);
        su += t[i] * (kInverse ? next : old);
        sz += ga[i] * load(z + i * Dp + d);
      }
      T *const to_u = sums.uhat + k * Dp + d, *const to_z = sums.az + k * Dp + d;
      store(to_u, load(to_u) + su);
      store(to_z, load(to_z) + sz);
    }
  }

  // Parts [begin, end) of all G * parts. A group of one part is finished here, others leave their sums in `partial`.
  template <bool kInverse>
  void run_parts(int64_t begin, int64_t end, T* scratch) const {
    GroupParams<T> p(scratch + (K + 1) * a.block * Dp + 5 * K * R, K, Dp);
    T* const mine = p.w + K * Dp + 7 * K;
    T* const few = mine + sums_size();  // sums of a few blocks: adding 1e5 rows one by one would lose digits
    const int64_t rows = (a.N + a.parts - 1) / a.parts;
    for (int64_t part = begin, loaded = -1; part < end; ++part) {
      const int64_t g = part / a.parts, first = part % a.parts * rows, last = first + rows < a.N ? first + rows : a.N;
      if (g != loaded) {
        this->load_group(loaded = g, p);
      }
      T* const total = a.parts > 1 ? (T*)a.partial + part * sums_size() : mine;
      clear(total), clear(few);
      Sums sums(few, K, Dp);
      for (int64_t n = first, blocks = 0; n < last; n += a.block) {
        block<kInverse>(g * a.N + n, last - n < a.block ? last - n : a.block, scratch, p, sums);
        if (++blocks % 32 == 0) {
          add(few, total), clear(few);
        }
      }
      add(few, total);
      if (a.parts == 1) {
        finish(g, p, total);
      }
    }
  }

  // Adds up the parts of group g, in order.
  void combine(int64_t g, T* scratch) const {
    GroupParams<T> p(scratch + (K + 1) * a.block * Dp + 5 * K * R, K, Dp);
    T* const total = p.w + K * Dp + 7 * K;
    this->load_group(g, p);
    clear(total);
    for (int64_t i = 0; i < a.parts; ++i) {
      add((T*)a.partial + (g * a.parts + i) * sums_size(), total);
    }
    finish(g, p, total);
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

  void finish(int64_t g, const GroupParams<T>& p, T* at) const {
    const Sums sums(at, K, Dp);
    for (int64_t k = 0; k < K; ++k) {
      V y = {};
      for (int64_t d = 0; d < Dp; d += W) {
        y += load(sums.uhat + k * Dp + d) * load(p.w + k * Dp + d);
      }
      const T gc = sum(y), gx = sums.gx[k] + gc * (p.slope[k] - 1) / p.n2[k], on_w = -2 * gc * p.c[k] / p.n2[k],
              c = p.c[k];
      P *const to_u = (P*)a.gu + g * a.gu_group + k * a.gu_layer, *const to_w =
                                                                      (P*)a.gw + g * a.gw_group + k * a.gw_layer;
      for_each_vector<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
        const V uv = load(this->u(g, k) + d, m, u_end), wv = load(p.w + k * Dp + d),
                pulled = load(sums.uhat + k * Dp + d);
        store(to_u + d, pulled + gx * wv, m);
        store(to_w + d, load(sums.az + k * Dp + d) + c * pulled + on_w * wv + gx * uv, m);
      });
      store((P*)a.gb + g * a.gb_group + k * a.gb_layer, V{} + sums.ga[k], 1);
    }
  }
};

// Rows (N = 1) or parts of groups [begin, end).
void planar_flow_backward(DType type, bool wide, bool inverse, const FlowArgs& a, int64_t begin, int64_t end,
                          void* scratch) {
  const auto run = [&]<class S, class P, int kD>(auto* t, Flow<S, P, kD>) {
    if (a.N > 1) {
      const FlowBackward<S, P, kD> f(a);
      return inverse ? f.template run_parts<true>(begin, end, t) : f.template run_parts<false>(begin, end, t);
    }
    const FlowBackwardRows<S, P, kD> f(a);
    inverse ? f.template run<true>(begin, end, t) : f.template run<false>(begin, end, t);
  };
  switch (type) {
    case DType::f32:
      return a.D == 64 ? run((float*)scratch, Flow<float, float, 64>(a)) : run((float*)scratch, Flow<float>(a));
    case DType::f64: return run((double*)scratch, Flow<double>(a));
    case DType::bf16: return wide ? run((float*)scratch, Flow<bf16, float>(a)) : run((float*)scratch, Flow<bf16>(a));
    case DType::f16: return wide ? run((float*)scratch, Flow<f16, float>(a)) : run((float*)scratch, Flow<f16>(a));
  }
}

void planar_flow_combine(DType type, bool wide, const FlowArgs& a, int64_t g, void* scratch) {
  switch (type) {
    case DType::f32: return FlowBackward<float>(a).combine(g, (float*)scratch);
    case DType::f64: return FlowBackward<double>(a).combine(g, (double*)scratch);
    case DType::bf16:
      return wide ? FlowBackward<bf16, float>(a).combine(g, (float*)scratch)
                  : FlowBackward<bf16>(a).combine(g, (float*)scratch);
    case DType::f16:
      return wide ? FlowBackward<f16, float>(a).combine(g, (float*)scratch)
                  : FlowBackward<f16>(a).combine(g, (float*)scratch);
  }
}

// sums [C] += the sums over the rows of x [rows, C], in the order of the rows.
void add_columns(bool f64, const void* x, int64_t rows, int64_t C, void* sums) {
  const auto run = [&]<class T>(const T* p, T* to) __attribute__((always_inline)) {
    for_each_vector<T>(C, [&](int64_t c, int n) __attribute__((always_inline)) {
      auto s = load(to + c, n, to + C);
      for (int64_t r = 0; r < rows; ++r) {
        s += load(p + r * C + c, n, p + rows * C);
      }
      store(to + c, s, n);
    });
  };
  f64 ? run((const double*)x, (double*)sums) : run((const float*)x, (float*)sums);
}

}  // namespace ORD_ISA
