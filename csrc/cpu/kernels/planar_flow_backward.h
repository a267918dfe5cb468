// Gradients of planar flows and of their inverses. A block of rows first rebuilds its states from the input and the saved a_k
// (going back from z_K would cancel), then walks the layers against the direction of the map.
//
// With g the gradient of a layer's output, both maps have the same form: ga = (gradient of a), g <- g + ga w, and
//   forward: ga = sech^2 (g.uhat) + gl dlogdet/da;         gradient of uhat: t g, with g before the update
//   inverse: ga = gl dlogdet/da - sech^2 (g'.uhat) / det;  gradient of uhat: -t g, with g after it;  g' = g + gl dlogdet/da w
#pragma once
#include "cpu/kernels/planar_flow.h"

namespace ORD_ISA {

template <class S, class P = S, int kD = 0>
struct FlowBackward : Flow<S, P, kD> {
  using Base = Flow<S, P, kD>;
  using typename Base::T, typename Base::V;
  using Base::a, Base::K, Base::D, Base::Dp, Base::u_end, Base::w_end, Base::z_end, Base::W, Base::R;

  explicit FlowBackward(const FlowArgs& args) : Base(args) {}

  // Sums over a group's rows: of the gradient of uhat, of ga z [K, Dp], of the log-det's by w.u, and of ga [K].
  struct Sums {
    T *uhat, *az, *gx, *ga;
    Sums(T* at, int64_t K, int64_t Dp) : uhat(at), az(at + K * Dp), gx(at + 2 * K * Dp), ga(gx + K) {}
  };
  int64_t sums_size() const { return K * (2 * Dp + 2); }

  // What the layers' scalars are, [K, R] each.
  struct Scalars {
    T *t, *h, *c, *s, *slope, *n2, *by_a, *by_x, *inverse;
  };

  // Rows [r0, r0 + n). With `p` they share their parameters, and `sums` takes the gradients; else those are written.
  template <bool kInverse>
  void block(int64_t r0, int n, T* scratch, const GroupParams<T>* p, Sums* sums) const {
    T* const z = scratch;  // [K, block, Dp]
    T* const g = z + K * a.block * Dp;
    Scalars l;
    {
      T** const all[] = {&l.t, &l.h, &l.c, &l.s, &l.slope, &l.n2, &l.by_a, &l.by_x, &l.inverse};
      T* next = g + a.block * Dp;
      for (T** q : all) *q = next, next += K * R;
    }
    const S* const gz_end = (const S*)a.gz + (a.G * a.N - 1) * a.gz_row + D;
    for (int i = 0; i < n; ++i) {
      this->load_row((const S*)a.z + (r0 + i) * a.z_row, z_end, z + i * Dp);
      this->load_row((const S*)a.gz + (r0 + i) * a.gz_row, gz_end, g + i * Dp);
    }
    for (int64_t k = 0; k < K; ++k) rebuild(r0, n, k, z, l, p);
    for (int64_t layer = 0; layer < K; ++layer) {
      const int64_t k = kInverse ? layer : K - 1 - layer;
      step<kInverse>(r0, n, k, z + k * a.block * Dp, g, l, p, sums);
    }
    for (int i = 0; i < n; ++i) this->store_row(g + i * Dp, (S*)a.z_out + (r0 + i) * D);
  }

  // The layer's scalars, and its output z[k + 1] (but the last) from z[k].
  void rebuild(int64_t r0, int n, int64_t k, T* z, const Scalars& l, const GroupParams<T>* p) const {
    alignas(64) T act[R] = {};
    V wu[R] = {}, ww[R] = {};
    for (int i = 0; i < n; ++i) act[i] = ((const T*)a.act_in)[(r0 + i) * K + k];
    const P *ui = this->u(r0, k), *wi = this->w(r0, k);
    const int64_t u_step = a.u_group, w_step = a.w_group;
    for (int i = 0; i < n && !p; ++i, ui += u_step, wi += w_step) {
      V y[2] = {}, q[2] = {};
      vectors_by_two<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
        const V wv = load(wi + d, m, w_end);
        y[j] += wv * load(ui + d, m, u_end);
        q[j] += wv * wv;
      });
      wu[i] = y[0] + y[1], ww[i] = q[0] + q[1];
      k + 1 < K ? this->prefetch(r0 + i, k + 1) : this->prefetch(r0 + i + a.block, 0);
    }
    alignas(64) T x[R], sp[R];
    for (int i = 0; i < n; i += W) {  // short loops, as in Flow::block
      const int64_t at = k * R + i;
      const auto e = p ? p->terms(k) : layer_terms(sum_each(wu + i), sum_each(ww + i), a.mode);
      store(l.c + at, e.c), store(l.s + at, e.s), store(l.slope + at, e.slope), store(l.n2 + at, e.n2), store(x + i, e.x), store(sp + i, e.sp);
    }
    for (int i = 0; i < n; i += W) {
      const int64_t at = k * R + i;
      V t, h, by_a, by_x, inverse;
      tanh_sech2(load(act + i), t, h);
      const LayerTerms<V> e = {V{}, load(l.s + at), load(x + i), load(sp + i), load(l.slope + at), V{}};
      log_det_slopes(t, h, e, a.mode, by_a, by_x, inverse);
      store(l.t + at, t), store(l.h + at, h), store(l.by_a + at, by_a), store(l.by_x + at, by_x), store(l.inverse + at, inverse);
    }
    if (k + 1 == K) return;
    T *const from = z + k * a.block * Dp, *const to = from + a.block * Dp;
    for (int64_t i = 0; i < n * Dp; i += W) store(to + i, load(from + i));
    this->move(to, l.t + k * R, l.c + k * R, r0, n, k, p);
  }

  template <bool kInverse>
  void step(int64_t r0, int n, int64_t k, const T* z, T* g, const Scalars& l, const GroupParams<T>* p, Sums* sums) const {
    alignas(64) T gl[R] = {}, ga[R], gx[R], on_w[R];
    V gu[R] = {}, gw[R] = {};  // g.uhat and g.w, to be summed over their lanes
    const T* const c = l.c + k * R;
    const P *ui = this->u(r0, k), *wi = this->w(r0, k);
    const int64_t u_step = a.u_group, w_step = a.w_group;
    const T* gi = g;
    for (int i = 0; i < n; ++i, gi += Dp, ui += u_step, wi += w_step) {
      const T ci = c[i];
      V x[2] = {}, y[2] = {};
      if (p) {
        const T* const uh = p->uhat + k * Dp;
        vectors_by_two<T>(Dp, [&](int64_t d, int, int j) __attribute__((always_inline)) { x[j] += load(gi + d) * load(uh + d); });
      } else {
        vectors_by_two<T>(D, [&](int64_t d, int m, int j) __attribute__((always_inline)) {
          const V gv = load(gi + d), wv = load(wi + d, m, w_end);
          x[j] += gv * (load(ui + d, m, u_end) + ci * wv);
          y[j] += gv * wv;
        });
      }
      gu[i] = x[0] + x[1], gw[i] = y[0] + y[1], gl[i] = ((const T*)a.gl)[r0 + i];
    }
    T* const t = l.t + k * R;
    for (int i = 0; i < n; i += W) {
      const int64_t at = k * R + i;
      const V h = load(l.h + at), tv = load(t + i), glv = load(gl + i), guv = sum_each(gu + i), by_logdet = glv * load(l.by_a + at);
      V gav, gwv = sum_each(gw + i), pull = tv;
      const V n2 = load(l.n2 + at), cv = load(l.c + at);
      if constexpr (kInverse) {
        gav = by_logdet - h * load(l.inverse + at) * (guv + by_logdet * load(l.s + at));
        gwv += gav * n2;  // n2 is 1 where w = 0, and counts for nothing there: c = 0 and slope = 1
        pull = -tv;
      } else {
        gav = guv * h + by_logdet;
      }
      const V gc = pull * gwv;
      store(ga + i, gav);
      store(gx + i, glv * load(l.by_x + at) + (p ? V{} : gc * (load(l.slope + at) - 1.0f) / n2));
      store(on_w + i, -2.0f * gc * cv / n2);
      store(t + i, pull);
    }
    if (p) {
      add_rows<kInverse>(n, k, z, g, t, ga, *p, *sums);
      for (int i = 0; i < n; ++i) sums->gx[k] += gx[i], sums->ga[k] += ga[i];
      return;
    }
    if (a.stream) {
      write<kInverse, true>(r0, n, k, z, g, t, c, ga, gx, on_w);
    } else {
      write<kInverse, false>(r0, n, k, z, g, t, c, ga, gx, on_w);
    }
  }

  // The gradients of each row's own parameters, and g [n, Dp] += ga w. kStream: past the caches.
  template <bool kInverse, bool kStream>
  void write(int64_t r0, int n, int64_t k, const T* z, T* g, const T* t, const T* c, const T* ga, const T* gx, const T* on_w) const {
    const P *ui = this->u(r0, k), *wi = this->w(r0, k);
    P *to_u = (P*)a.gu + r0 * a.gu_group + k * a.gu_layer, *to_w = (P*)a.gw + r0 * a.gw_group + k * a.gw_layer;
    P* to_b = (P*)a.gb + r0 * a.gb_group + k * a.gb_layer;
    const int64_t u_step = a.u_group, w_step = a.w_group, gu_step = a.gu_group, gw_step = a.gw_group, gb_step = a.gb_group;
    for (int i = 0; i < n; ++i) {
      const T ti = t[i], gai = ga[i], gxi = gx[i], cti = c[i] * t[i], wi_by = on_w[i];
      vectors<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
        const V uv = load(ui + d, m, u_end), wv = load(wi + d, m, w_end), old = load(g + d), next = old + gai * wv;
        const V pulled = kInverse ? next : old;
        store(g + d, next);
        put<kStream>(to_u + d, ti * pulled + gxi * wv, m);
        put<kStream>(to_w + d, gai * load(z + d) + cti * pulled + wi_by * wv + gxi * uv, m);
      });
      store(to_b, V{} + gai, 1);
      g += Dp, z += Dp, ui += u_step, wi += w_step, to_u += gu_step, to_w += gw_step, to_b += gb_step;
    }
  }
  template <bool kStream>
  static inline __attribute__((always_inline)) void put(P* to, V v, int m) {
    if constexpr (kStream && sizeof(P) == sizeof(T)) {
      if (m == W && (uintptr_t)to % 32 == 0) return store_past_caches(to, v);
    }
    store(to, v, m);
  }

  // g [n, Dp] += ga w, and the sums over the rows.
  template <bool kInverse>
  void add_rows(int n, int64_t k, const T* z, T* g, const T* t, const T* ga, const GroupParams<T>& p, Sums& sums) const {
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

  // Rows [begin, end), each with its own parameters.
  template <bool kInverse>
  void run_rows(int64_t begin, int64_t end, T* scratch) const {
    for (int64_t r = begin; r < end; r += a.block) block<kInverse>(r, end - r < a.block ? end - r : a.block, scratch, nullptr, nullptr);
    if (a.stream) __builtin_ia32_sfence();
  }

  // Parts [begin, end) of all G * parts. A group of one part is finished here, others leave their sums in `partial`.
  template <bool kInverse>
  void run_parts(int64_t begin, int64_t end, T* scratch) const {
    GroupParams<T> p(scratch + (K + 1) * a.block * Dp + 9 * K * R, K, Dp);
    T* const mine = p.w + K * Dp + 7 * K;
    T* const few = mine + sums_size();  // sums of a few blocks: adding 1e5 rows one by one would lose digits
    const int64_t rows = (a.N + a.parts - 1) / a.parts;
    for (int64_t part = begin, loaded = -1; part < end; ++part) {
      const int64_t g = part / a.parts, first = part % a.parts * rows, last = first + rows < a.N ? first + rows : a.N;
      if (g != loaded) this->load_group(loaded = g, p);
      T* const total = a.parts > 1 ? (T*)a.partial + part * sums_size() : mine;
      clear(total), clear(few);
      Sums sums(few, K, Dp);
      for (int64_t n = first, blocks = 0; n < last; n += a.block) {
        block<kInverse>(g * a.N + n, last - n < a.block ? last - n : a.block, scratch, &p, &sums);
        if (++blocks % 32 == 0) add(few, total), clear(few);
      }
      add(few, total);
      if (a.parts == 1) finish(g, p, total);
    }
  }

  // Adds up the parts of group g, in order.
  void combine(int64_t g, T* scratch) const {
    GroupParams<T> p(scratch + (K + 1) * a.block * Dp + 9 * K * R, K, Dp);
    T* const total = p.w + K * Dp + 7 * K;
    this->load_group(g, p);
    clear(total);
    for (int64_t i = 0; i < a.parts; ++i) add((T*)a.partial + (g * a.parts + i) * sums_size(), total);
    finish(g, p, total);
  }

  void clear(T* sums) const {
    for (int64_t i = 0; i < sums_size(); ++i) sums[i] = 0;
  }
  void add(const T* __restrict from, T* __restrict to) const {
    for (int64_t i = 0; i < sums_size(); ++i) to[i] += from[i];
  }

  void finish(int64_t g, const GroupParams<T>& p, T* at) const {
    const Sums sums(at, K, Dp);
    for (int64_t k = 0; k < K; ++k) {
      V y = {};
      for (int64_t d = 0; d < Dp; d += W) y += load(sums.uhat + k * Dp + d) * load(p.w + k * Dp + d);
      const T gc = sum(y), gx = sums.gx[k] + gc * (p.slope[k] - 1) / p.n2[k], on_w = -2 * gc * p.c[k] / p.n2[k], c = p.c[k];
      P *const to_u = (P*)a.gu + g * a.gu_group + k * a.gu_layer, *const to_w = (P*)a.gw + g * a.gw_group + k * a.gw_layer;
      vectors<T>(D, [&](int64_t d, int m) __attribute__((always_inline)) {
        const V uv = load(this->u(g, k) + d, m, u_end), wv = load(p.w + k * Dp + d), pulled = load(sums.uhat + k * Dp + d);
        store(to_u + d, pulled + gx * wv, m);
        store(to_w + d, load(sums.az + k * Dp + d) + c * pulled + on_w * wv + gx * uv, m);
      });
      store((P*)a.gb + g * a.gb_group + k * a.gb_layer, V{} + sums.ga[k], 1);
    }
  }
};

// Rows (N = 1) or parts of groups [begin, end).
void planar_flow_backward(FlowType type, bool wide, bool inverse, const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  const auto run = [&](auto f, auto* t) {
    if (a.N == 1) return inverse ? f.template run_rows<true>(begin, end, t) : f.template run_rows<false>(begin, end, t);
    return inverse ? f.template run_parts<true>(begin, end, t) : f.template run_parts<false>(begin, end, t);
  };
  switch (type) {
    case FlowType::f32:
      return a.D == 64 ? run(FlowBackward<float, float, 64>(a), (float*)scratch) : run(FlowBackward<float>(a), (float*)scratch);
    case FlowType::f64: return run(FlowBackward<double>(a), (double*)scratch);
    case FlowType::bf16: return wide ? run(FlowBackward<bf16, float>(a), (float*)scratch) : run(FlowBackward<bf16>(a), (float*)scratch);
    case FlowType::f16: return wide ? run(FlowBackward<f16, float>(a), (float*)scratch) : run(FlowBackward<f16>(a), (float*)scratch);
  }
}

void planar_flow_combine(FlowType type, bool wide, const FlowArgs& a, int64_t g, void* scratch) {
  switch (type) {
    case FlowType::f32: return FlowBackward<float>(a).combine(g, (float*)scratch);
    case FlowType::f64: return FlowBackward<double>(a).combine(g, (double*)scratch);
    case FlowType::bf16:
      return wide ? FlowBackward<bf16, float>(a).combine(g, (float*)scratch) : FlowBackward<bf16>(a).combine(g, (float*)scratch);
    case FlowType::f16:
      return wide ? FlowBackward<f16, float>(a).combine(g, (float*)scratch) : FlowBackward<f16>(a).combine(g, (float*)scratch);
  }
}

// sums [C] += the sums over the rows of x [rows, C], in the order of the rows.
void add_columns(bool f64, const void* x, int64_t rows, int64_t C, void* sums) {
  const auto run = [&]<class T>(const T* p, T* to) __attribute__((always_inline)) {
    vectors<T>(C, [&](int64_t c, int n) __attribute__((always_inline)) {
      auto s = load(to + c, n, to + C);
      for (int64_t r = 0; r < rows; ++r) s += load(p + r * C + c, n, p + rows * C);
      store(to + c, s, n);
    });
  };
  f64 ? run((const double*)x, (double*)sums) : run((const float*)x, (float*)sums);
}

}  // namespace ORD_ISA
