// The parts of a decoder's step that work on one row: norms, attention over the cache, activations.
#pragma once
#include "common/vmath.h"
#include "cpu/kernels/gemm_tile_size.h"

namespace ORD_ISA {
namespace {

template <class V>
ORD_INLINE auto largest(V v) {  // NaN is passed over
  auto m = v[0];
  for (int i = 1; i < kSize<V>; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// x Phi(x), absolute error below 2e-7 max(1, |x|): erf by Cephes' polynomials, in x^2 below 1 and in 1 / x^2 above.
ORD_INLINE vf gelu(vf x) {
  const vf u = absolute(x) * 0.70710678f, z = u * u;
  vf p = z * 7.853861353153693e-5f - 8.010193625184903e-4f;
  p = p * z + 5.188327685732524e-3f;
  p = p * z - 2.685381193529856e-2f;
  p = p * z + 1.128358514861418e-1f;
  p = p * z - 3.761262582423300e-1f;
  p = p * z + 1.128379165726710e0f;
  const vf near = u * p;
  const vf inv = 1.0f / (u < 1.0f ? (vf){} + 1.0f : u), w = inv * inv;
  vf q = w * 2.326819970068386e-2f - 1.387039388740657e-1f;  // 1 to 2
  q = q * w + 3.687424674597105e-1f;
  q = q * w - 5.824733027278666e-1f;
  q = q * w + 6.210004621745983e-1f;
  q = q * w - 4.944515323274145e-1f;
  q = q * w + 3.404879937665872e-1f;
  q = q * w - 2.741127028184656e-1f;
  q = q * w + 5.638259427386472e-1f;
  vf r = w * -1.047766399936249e+1f + 1.297719955372516e+1f;  // above
  r = r * w - 7.495518717768503e+0f;
  r = r * w + 2.921019019210786e+0f;
  r = r * w - 1.015265279202700e+0f;
  r = r * w + 4.218463358204948e-1f;
  r = r * w - 2.820767439740514e-1f;
  r = r * w + 5.641895067754075e-1f;
  vf e, em1;
  exp_neg(z, e, em1);
  const vf far = 1.0f - e * inv * (u < 2.0f ? q : r);
  const vf erf = with_sign(u < 1.0f ? near : far, x);
  return x * (0.5f * erf + 0.5f);
}
ORD_INLINE vd gelu(vd x) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) r[i] = x[i] * 0.5 * __builtin_erfc(-x[i] * 0.70710678118654752440);
  return r;
}

template <class T>
__attribute__((noinline)) static void activate(T* __restrict h, int64_t n, bool smooth) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  if (smooth) {
    for (int64_t i = 0; i < n; i += W) store(h + i, gelu(load(h + i)));
  } else {
    for (int64_t i = 0; i < n; i += W) {
      const V v = load(h + i);
      store(h + i, v < (T)0 ? V{} : v);  // NaN stays
    }
  }
}

// ---- layer norm of one row, whose tiles lie `stride` apart; w, b and what is added one after the other, padded to tiles

template <class T, int N>
ORD_INLINE void norm_registers(typename Traits<T>::V (&v)[N], T eps, const T* w, const T* b) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  constexpr T share = (T)1 / (N * W);
  V s[2] = {};
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) s[i & 1] += v[i];
  const V mean = V{} + sum(s[0] + s[1]) * share;
  V q[2] = {};
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) v[i] -= mean, q[i & 1] += v[i] * v[i];
  const V scale = V{} + (T)1 / (T)__builtin_sqrt((double)(sum(q[0] + q[1]) * share + eps));
#pragma GCC unroll 32
  for (int i = 0; i < N; ++i) v[i] = v[i] * scale * load(w + i * W) + load(b + i * W);
}

template <class T>
static void norm_loops(int64_t d, T eps, const T* from, int64_t stride, const T* w, const T* b, const T* add, T* to) {
  using V = typename Traits<T>::V;
  V s = {}, q = {};
  const int64_t nb = tiles_of(d);
  for (int64_t i = 0; i < nb; ++i) vectors<T>(part(d, i), [&](int64_t j, int n) __attribute__((always_inline)) { s += load(from + i * stride + j, n, from + i * stride + kT); });
  const V mean = V{} + sum(s) / (T)d;
  for (int64_t i = 0; i < nb; ++i)
    vectors<T>(part(d, i), [&](int64_t j, int n) __attribute__((always_inline)) {
      V c = load(from + i * stride + j) - mean;
      if (n < kLanes<T>) c = (V)((Ints<V>)c & first_lanes(n, V{}));
      q += c * c;
    });
  const V scale = V{} + (T)1 / (T)__builtin_sqrt((double)(sum(q) / (T)d + eps));
  for (int64_t i = 0; i < nb; ++i)
    vectors<T>(part(d, i), [&](int64_t j, int) __attribute__((always_inline)) {  // behind d: w = b = 0
      V y = (load(from + i * stride + j) - mean) * scale * load(w + i * kT + j) + load(b + i * kT + j);
      if (add) y += load(add + i * kT + j);
      store(to + i * stride + j, y);
    });
}

// to = norm(from) (+ add), and, where w2 is given, then norm by w2, b2.
template <class T>
__attribute__((noinline)) static void norm_row(int64_t d, T eps, const T* from, int64_t stride, const T* w, const T* b, const T* add, const T* w2,
                                               const T* b2, T* to) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>, N = kT / W;
  if (d == kT) {
    V v[N];
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) v[i] = load(from + i * W);
    norm_registers<T, N>(v, eps, w, b);
    if (add)
#pragma GCC unroll 32
      for (int i = 0; i < N; ++i) v[i] += load(add + i * W);
    if (w2) norm_registers<T, N>(v, eps, w2, b2);
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) store(to + i * W, v[i]);
  } else {
    norm_loops(d, eps, from, stride, w, b, add, to);
    if (w2) norm_loops<T>(d, eps, to, stride, w2, b2, nullptr, to);
  }
}

// ---- attention of one row: q [d], scaled; k, v [n, dv] of its cache; room for padded(n) scores -> to [d], room behind

template <class T, int HV>  // vectors of a head, or 0: any width
__attribute__((noinline)) static void attend(int64_t n, int64_t heads, int64_t width, int64_t dv, const T* q, const T* k, const T* v, T* score, T* to) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  const V minus = V{} - (T)__builtin_inf();
  for (int64_t h = 0; h < heads; ++h, q += width, k += width, v += width, to += width) {
    V top = minus;
    for (int64_t t = 0; t < n; t += W) {
      V dot[W] = {};
      const int m = n - t < W ? (int)(n - t) : W;
      for (int l = 0; l < m; ++l) {
        const T* kt = k + (t + l) * dv;
        V s = {};
        if constexpr (HV > 0) {
#pragma GCC unroll 8
          for (int i = 0; i < HV; ++i) s += load(q + i * W) * load(kt + i * W);
        } else {
          vectors<T>(width, [&](int64_t j, int lanes) __attribute__((always_inline)) {
            V p = load(q + j) * load(kt + j);
            if (lanes < W) p = (V)((Ints<V>)p & first_lanes(lanes, V{}));
            s += p;
          });
        }
        dot[l] = s;
      }
      V s = sum_each(dot);
      if (m < W) s = first_lanes(m, V{}) ? s : minus;
      store(score + t, s);
      top = top > s ? top : s;
    }
    const V most = V{} + largest(top);
    V all = {};
    for (int64_t t = 0; t < n; t += W) {
      V e, em1;
      exp_neg(load(score + t) - most, e, em1);
      store(score + t, e);
      all += e;
    }
    const V share = V{} + (T)1 / sum(all);
    if constexpr (HV > 0) {
      V o[HV] = {};
      for (int64_t t = 0; t < n; ++t)
#pragma GCC unroll 8
        for (int i = 0; i < HV; ++i) o[i] += score[t] * load(v + t * dv + i * W);
#pragma GCC unroll 8
      for (int i = 0; i < HV; ++i) store(to + i * W, o[i] * share);
    } else {
      for (int64_t j = 0; j < width; j += W) {  // lanes behind the head are the next one's to write
        V o = {};
        for (int64_t t = 0; t < n; ++t) o += score[t] * load(v + t * dv + j);
        store(to + j, o * share);
      }
    }
  }
}

template <class T>
static void attention(int64_t n, int64_t heads, int64_t width, int64_t dv, const T* q, const T* k, const T* v, T* score, T* to) {
  constexpr int W = kLanes<T>;
  if (width == W) return attend<T, 1>(n, heads, width, dv, q, k, v, score, to);
  if (width == 2 * W) return attend<T, 2>(n, heads, width, dv, q, k, v, score, to);
  if (width == 4 * W) return attend<T, 4>(n, heads, width, dv, q, k, v, score, to);
  attend<T, 0>(n, heads, width, dv, q, k, v, score, to);
}

}  // namespace
}  // namespace ORD_ISA
