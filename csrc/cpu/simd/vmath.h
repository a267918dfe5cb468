// Vectors of the width of the instruction set in hand (GCC's vector extension, no intrinsics), loads and stores in
// every storage type, and branch-free exp, tanh, log, softplus without -ffast-math. NaN and infinities go through.
// Included inside no namespace: everything lands in ORD_ISA. No std:: here, nor in any file compiled per instruction
// set: an inline std function compiled for AVX-512 is a weak symbol that the linker may give to the baseline file too.
//
// Largest errors in fp32, held by tests/test_vmath.py over all exponents: exp 1.5 ulp, tanh 3, sech^2 6, log 1, log1p
// 1, softplus 3, logistic function 3. fp64 goes through libm, lane by lane.
#pragma once
#include <cstdint>

#include "cpu/dtype.h"

#define ORD_INLINE static inline __attribute__((always_inline))
#if defined(__AVX512F__)
#define ORD_BYTES 64
#elif defined(__AVX2__)
#define ORD_BYTES 32
#else
#define ORD_BYTES 16
#endif

namespace ORD_ISA {

typedef float vf __attribute__((vector_size(ORD_BYTES)));
typedef int32_t vi __attribute__((vector_size(ORD_BYTES)));
typedef uint32_t vu __attribute__((vector_size(ORD_BYTES)));
typedef double vd __attribute__((vector_size(ORD_BYTES)));
typedef int64_t vl __attribute__((vector_size(ORD_BYTES)));
typedef uint16_t vh __attribute__((vector_size(ORD_BYTES / 2)));
struct bf16 {
  uint16_t x;
};
struct f16 {
  uint16_t x;
};

// T: what a storage type S is computed in; V: a vector of T, I: the integers (and masks) of its lanes.
template <class S>
struct Traits {
  typedef float T;
  typedef vf V;
  typedef vi I;
};
template <>
struct Traits<double> {
  typedef double T;
  typedef vd V;
  typedef vl I;
};
template <class V>
struct IntsOf;
template <>
struct IntsOf<vf> {
  typedef vi I;
};
template <>
struct IntsOf<vd> {
  typedef vl I;
};
template <class V>
using Ints = typename IntsOf<V>::I;
template <class T>
constexpr int kLanes = ORD_BYTES / sizeof(T);
template <class V>
constexpr int kSize = sizeof(V) / sizeof(V{}[0]);

// f(S{}) for the storage type S that `type` names.
template <class F>
ORD_INLINE auto with_storage_type(DType type, const F& f) {
  switch (type) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(bf16{});
    default: return f(f16{});
  }
}

// ---- loads and stores

ORD_INLINE vf widen(vh h, bf16) { return (vf)(__builtin_convertvector(h, vu) << 16); }
ORD_INLINE vf widen(vh h, f16) {
  const vu x = __builtin_convertvector(h, vu);
  const vf magnitude = (vf)((x & 0x7FFF) << 13) * 0x1p112f;  // moves the exponent's bias; subnormals come out right
  const vu special = (vu)((x & 0x7C00) == 0x7C00) & 0x7F800000;
  return (vf)((vu)magnitude | special | (x & 0x8000) << 16);
}
ORD_INLINE vh narrow(vf v, bf16) {  // to nearest, ties to even
  const vu x = (vu)v;
  const vu r = (x + 0x7FFF + ((x >> 16) & 1)) >> 16;
  return __builtin_convertvector(v == v ? r : (x >> 16 | 0x40), vh);
}
ORD_INLINE vh narrow(vf v, f16) {
  const vu x = (vu)v & 0x7FFFFFFF;
  const vu normal = (x + 0xC8000FFFu + ((x >> 13) & 1)) >> 13;  // 65520 and above carry into infinity
  const vu small = (vu)((vf)x + 0.5f) - 0x3F000000;             // the addition rounds at 2^-24
  const vu huge = (vi)x > (vi)((vu){} + 0x7F800000) ? (vu){} + 0x7E00 : (vu){} + 0x7C00;
  const vu r = (vi)x >= 0x47800000 ? huge : (vi)x < 0x38800000 ? small : normal;
  return __builtin_convertvector(r | ((vu)v >> 16 & 0x8000), vh);
}

ORD_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
ORD_INLINE vd load(const double* p) {
  vd v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class H>
ORD_INLINE vf load(const H* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return widen(h, H{});
}
ORD_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
ORD_INLINE void store(double* p, vd v) { __builtin_memcpy(p, &v, sizeof v); }
template <class H>
ORD_INLINE void store(H* p, vf v) {
  const vh h = narrow(v, H{});
  __builtin_memcpy(p, &h, sizeof h);
}

// To an address of a multiple of 32 (16 for the baseline), without reading the line first. Fence afterwards.
ORD_INLINE void store_streaming(float* p, vf v) {
#if ORD_BYTES == 64
  __builtin_ia32_movntps256(p, __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7));
  __builtin_ia32_movntps256(p + 8, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#elif ORD_BYTES == 32
  __builtin_ia32_movntps256(p, v);
#else
  __builtin_ia32_movntps(p, v);
#endif
}
ORD_INLINE void store_streaming(double* p, vd v) { store_streaming((float*)p, (vf)v); }

ORD_INLINE vi first_lanes(int n, vf) {
  vi lane = {};
  for (int i = 0; i < kLanes<float>; ++i) {
    lane[i] = i;
  }
  return lane < n;
}
ORD_INLINE vl first_lanes(int n, vd) {
  vl lane = {};
  for (int i = 0; i < kLanes<double>; ++i) {
    lane[i] = i;
  }
  return lane < n;
}

#if ORD_BYTES == 64 && !defined(__clang__)
constexpr bool kMasks = true;  // n lanes and no other byte of memory
ORD_INLINE vf load_lanes(const float* p, int n) {
  return __builtin_ia32_loadups512_mask(p, (vf){}, (unsigned short)((1u << n) - 1));
}
ORD_INLINE vd load_lanes(const double* p, int n) {
  return __builtin_ia32_loadupd512_mask(p, (vd){}, (unsigned char)((1u << n) - 1));
}
ORD_INLINE void store_lanes(float* p, vf v, int n) {
  __builtin_ia32_storeups512_mask(p, v, (unsigned short)((1u << n) - 1));
}
ORD_INLINE void store_lanes(double* p, vd v, int n) {
  __builtin_ia32_storeupd512_mask(p, v, (unsigned char)((1u << n) - 1));
}
#else
constexpr bool kMasks = false;
template <class T>
typename Traits<T>::V load_lanes(const T*, int);
template <class T>
void store_lanes(T*, typename Traits<T>::V, int);
#endif

// The first n elements at p, zeros behind. `end`: the end of the tensor, up to which memory may be read.
template <class S>
ORD_INLINE typename Traits<S>::V load(const S* p, int n, const S* end) {
  using V = typename Traits<S>::V;
  constexpr int W = kLanes<typename Traits<S>::T>;
  if (n == W) {
    return load(p);
  }
  if constexpr (kMasks && sizeof(S) >= 4) {
    return load_lanes(p, n);
  }
  if (p + W <= end) {
    return (V)((typename Traits<S>::I)load(p) & first_lanes(n, V{}));
  }
  S some[W] = {};
  for (int i = 0; i < n; ++i) {
    some[i] = p[i];
  }
  return load(some);
}
template <class S>
ORD_INLINE void store(S* p, typename Traits<S>::V v, int n) {
  constexpr int W = kLanes<typename Traits<S>::T>;
  if (n == W) {
    return store(p, v);
  }
  if constexpr (kMasks && sizeof(S) >= 4) {
    return store_lanes(p, v, n);
  }
  S some[W];
  store(some, v);
  for (int i = 0; i < n; ++i) {
    p[i] = some[i];
  }
}
// Large outputs go past the caches: writing a line that is not there would read it first.
template <class S>
ORD_INLINE void store(S* p, typename Traits<S>::V v, int n, bool streaming) {
  if constexpr (sizeof(S) >= 4) {
    if (streaming && n == kLanes<S>) {
      return store_streaming(p, v);
    }
  }
  store(p, v, n);
}

ORD_INLINE float number(float x) { return x; }
ORD_INLINE double number(double x) { return x; }
ORD_INLINE float number(bf16 h) { return __builtin_bit_cast(float, (uint32_t)h.x << 16); }
ORD_INLINE float number(f16 h) {
  const float magnitude = __builtin_bit_cast(float, (uint32_t)(h.x & 0x7FFF) << 13) * 0x1p112f;
  const uint32_t special = (h.x & 0x7C00) == 0x7C00 ? 0x7F800000 : 0;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, magnitude) | special | (uint32_t)(h.x & 0x8000) << 16);
}

// f(d, n) for the vectors of D elements: n lanes from d on, all but the last with every lane.
template <class T, class F>
ORD_INLINE void for_each_vector(int64_t D, F f) {
  constexpr int W = kLanes<T>;
  int64_t d = 0;
  for (; d + 4 * W <= D; d += 4 * W) {
    f(d, W), f(d + W, W), f(d + 2 * W, W), f(d + 3 * W, W);
  }
  for (; d + W <= D; d += W) {
    f(d, W);
  }
  if (d < D) {
    f(d, (int)(D - d));
  }
}

// The same for sums: f(d, n, j) may add into the j-th of two accumulators, which halves the chain of dependent
// additions.
template <class T, class F>
ORD_INLINE void for_each_vector_x2(int64_t D, F f) {
  constexpr int W = kLanes<T>;
  int64_t d = 0;
  for (; d + 2 * W <= D; d += 2 * W) {
    f(d, W, 0), f(d + W, W, 1);
  }
  if (d + W <= D) {
    f(d, W, 0), d += W;
  }
  if (d < D) {
    f(d, (int)(D - d), 1);
  }
}

// ---- across lanes

typedef float v4f __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
typedef int64_t v2l __attribute__((vector_size(16)));

ORD_INLINE float sum(vf v) {
#if ORD_BYTES == 64
  const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  v4f q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#elif ORD_BYTES == 32
  v4f q = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  v4f q = v;
#endif
  q += __builtin_shufflevector(q, q, 2, 3, 0, 1);
  return q[0] + q[1];
}
ORD_INLINE double sum(vd v) {
#if ORD_BYTES == 64
  const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  const v2d q = __builtin_shufflevector(h, h, 0, 1) + __builtin_shufflevector(h, h, 2, 3);
#elif ORD_BYTES == 32
  const v2d q = __builtin_shufflevector(v, v, 0, 1) + __builtin_shufflevector(v, v, 2, 3);
#else
  const v2d q = v;
#endif
  return q[0] + q[1];
}
// The sums of W vectors at once: lane i of the result is the sum of v[i]. At each step lanes i and i ^ w of two vectors
// meet.
template <int... I>
struct Lanes {};
template <int w, class V, int... I>
ORD_INLINE V shuffle_xor(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, (I ^ w)...);
}
template <int w, class V>
ORD_INLINE V shuffle_xor(V v) {  // lane i ^ w in lane i
  return shuffle_xor<w>(v, Lanes<__integer_pack(kSize<V>)...>{});
}
template <int w, class V, int... I>
ORD_INLINE V pairwise_add(V a, V b, Lanes<I...>) {
  constexpr int W = sizeof...(I);
  return __builtin_shufflevector(a, b, (I & w ? I + W : I)...) +
         __builtin_shufflevector(a, b, (I & w ? (I ^ w) + W : (I ^ w))...);
}
template <int w, class V>
ORD_INLINE V horizontal_sums_from(
    const V* v) {  // of v[0], v[1], ... v[2 w - 1], each summed over the lanes whose higher bits differ
  using L = Lanes<__integer_pack(kSize<V>)...>;
  if constexpr (w == 1) {
    return pairwise_add<1>(v[0], v[1], L{});
  } else {
    return pairwise_add<w>(horizontal_sums_from<w / 2>(v), horizontal_sums_from<w / 2>(v + w), L{});
  }
}
template <class V>
ORD_INLINE V horizontal_sums(const V* v) {
  return horizontal_sums_from<kSize<V> / 2>(v);
}
// The same of M vectors, M at most W: lane i of the first M has the sum of v[i].
template <int M, class V>
ORD_INLINE V horizontal_sums_of(const V* v) {
  V s = horizontal_sums_from<M / 2>(v);
  if constexpr (2 * M == kSize<V>) {
    s += shuffle_xor<M>(s);
  }
  static_assert(M == kSize<V> || 2 * M == kSize<V>);
  return s;
}
// The first M lanes of v to p, and back from there: M lanes from p, and another M from q where a vector has twice as
// many.
template <int M, class T, class V>
ORD_INLINE void store_first(T* p, V v) {
  __builtin_memcpy(p, &v, M * sizeof(T));
}
template <class V, int... I>
ORD_INLINE V join(const void* p, const void* q, Lanes<I...>) {
  typedef decltype(V{}[0] + 0) Half __attribute__((vector_size(sizeof(V) / 2)));
  Half a, b;
  __builtin_memcpy(&a, p, sizeof a);
  __builtin_memcpy(&b, q, sizeof b);
  return __builtin_shufflevector(a, b, I...);
}
template <int M, class V>
ORD_INLINE V load_parts(const void* p, const void* q) {
  using L = Lanes<__integer_pack(kSize<V>)...>;
  if constexpr (M == kSize<V>) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else {
    return join<V>(p, q, L{});
  }
}
template <class I>
ORD_INLINE bool any(I mask) {
  v2l part[sizeof(I) / 16];
  __builtin_memcpy(part, &mask, sizeof mask);
  v2l r = part[0];
  for (unsigned i = 1; i < sizeof(I) / 16; ++i) {
    r |= part[i];
  }
  return (r[0] | r[1]) != 0;
}

// ---- fp32, and fp64 by libm, lane by lane

template <class V>
ORD_INLINE V absolute(V x) {
  return (V)((Ints<V>)x & (sizeof(x[0]) == 4 ? 0x7FFFFFFF : 0x7FFFFFFFFFFFFFFF));
}
template <class V>
ORD_INLINE V with_sign(V magnitude, V sign) {
  constexpr auto top = (decltype(Ints<V>{}[0] + 0))(1ull << (8 * sizeof(sign[0]) - 1));
  return (V)((Ints<V>)magnitude | ((Ints<V>)sign & top));
}

// s and m with exp(x) = s (1 + m) for x in [-87, 88]; NaN goes into m.
template <class V>
ORD_INLINE void exp_parts(V x, V& s, V& m) {
  V n = x * 1.44269504f + 12582912.0f;  // rounds to the nearest integer: + 1.5 * 2^23, and off again
  const Ints<V> i = (Ints<V>)n - 0x4B400000;
  n -= 12582912.0f;
  V r = x - n * 0.693145752f;  // ln 2 in two parts
  r = r - n * 1.42860677e-6f;
  V p = r * 1.9875691e-4f + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665795e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  m = p * r * r + r;  // expm1(r)
  s = (V)((i + 127) << 23);
}

// exp(-|x|) and expm1(-|x|); below -87 the truth, under 1.7e-38, is taken as 0.
template <class V>
ORD_INLINE void exp_neg(V x, V& e, V& em1) {
  const V a = -absolute(x);
  const auto under = a < -87.0f;
  V s, m;
  exp_parts(under ? (V){} - 87.0f : a, s, m);
  e = under ? (V){} : s * m + s;
  em1 = under ? (V){} - 1.0f : s * m + (s - 1.0f);
}

// log(u) + c for a small correction c; u normal, 0 (-inf), inf or NaN.
template <class V>
ORD_INLINE V log_plus(V u, V c) {
  const Ints<V> e = ((Ints<V>)u - 0x3F3504F3) >> 23;
  const V m = (V)((Ints<V>)u - e * (1 << 23)) - 1.0f;  // in [sqrt(1/2), sqrt(2)) - 1
  V p = m * 7.0376836e-2f - 1.1514610e-1f;
  p = p * m + 1.1676998e-1f;
  p = p * m - 1.2420141e-1f;
  p = p * m + 1.4249323e-1f;
  p = p * m - 1.6668057e-1f;
  p = p * m + 2.0000714e-1f;
  p = p * m - 2.4999994e-1f;
  p = p * m + 3.3333331e-1f;
  const V m2 = m * m, ef = __builtin_convertvector(e, V);
  V r = p * m2 * m + (ef * -2.12194440e-4f + c);
  r = r - 0.5f * m2;
  r = m + r + ef * 0.693359375f;
  r = u == 0.0f ? (V){} - __builtin_inff() : r;
  return u < __builtin_inff() ? r : u;  // inf and NaN stay
}

template <class V>
ORD_INLINE V cbrt_about(V x) {  // to 0.2 %: a start for Newton
  const V y = (V)((Ints<V>)x / 3 + 709921077);
  return (2.0f * y + x / (y * y)) * 0.33333334f;
}

ORD_INLINE void exp_neg(vd x, vd& e, vd& em1) {
  for (int i = 0; i < kLanes<double>; ++i) {
    e[i] = __builtin_exp(-__builtin_fabs(x[i]));
    em1[i] = __builtin_expm1(-__builtin_fabs(x[i]));
  }
}
ORD_INLINE vd log_plus(vd u, vd c) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) {
    r[i] = __builtin_log(u[i]) + c[i];
  }
  return r;
}
ORD_INLINE vd cbrt_about(vd x) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) {
    r[i] = __builtin_cbrt(x[i]);
  }
  return r;
}

// ---- both

// tanh and 1 - tanh^2, from e = exp(-2 |a|): (1 - e) / (1 + e) and 4 e / (1 + e)^2, neither with cancellation.
template <class V>
ORD_INLINE void tanh_sech2(V a, V& t, V& h) {
  V e, em1;
  exp_neg(a + a, e, em1);
  const V p = em1 + 2.0f;
  t = with_sign(-em1 / p, a);
  h = 4.0f * e / (p * p);
}

// log(1 + v), for v >= -1; with `folded` log |1 + v| for any v.
template <class V>
ORD_INLINE V log1p_correction(V v, V u) {  // u = 1 + v rounded; what the rounding lost, relative to u
  return absolute(v) < 3e7f ? (v - (u - 1.0f)) / u : (V){};
}
template <class V>
ORD_INLINE V log1p_v(V v) {
  const V u = v + 1.0f;
  const V r = log_plus(u, log1p_correction(v, u));
  return u >= 0.0f ? (u == 0.0f ? (V){} - __builtin_inff() : r) : (V){} + __builtin_nanf("");
}

// log(1 + e) for 0 <= e <= 1, or NaN: 2 atanh(e / (2 + e)).
template <class V>
ORD_INLINE V log1p_unit(V e) {
  if constexpr (sizeof(e[0]) == 8) {
    return log1p_v(e);
  } else {
    const V s = e / (e + 2.0f), z = s * s;
    V p = z * 0.232392405f + 0.217032675f;
    p = p * z + 0.285925874f;
    p = p * z + 0.399997012f;
    p = p * z + 0.666666673f;
    return s * z * p + (s + s);
  }
}

// log(1 + exp x) and its derivative.
template <class V>
ORD_INLINE void softplus_sigmoid(V x, V& sp, V& sg) {
  V e, em1;
  exp_neg(x, e, em1);
  sp = (x > 0.0f ? x : (x == x ? (V){} : x)) + log1p_unit(e);
  const V q = 1.0f / (e + 1.0f);
  sg = x >= 0.0f ? q : e * q;
}

}  // namespace ORD_ISA
