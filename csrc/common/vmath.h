// Vectors of the width of the instruction set in hand (GCC's vector extension, no intrinsics), loads and stores in every
// storage type, and branch-free exp, tanh, log, softplus without -ffast-math. NaN and infinities go through.
// Included inside no namespace: everything lands in ORD_ISA. No std:: here, nor in any file compiled per instruction set:
// an inline std function compiled for AVX-512 is a weak symbol that the linker may give to the baseline file too.
//
// Largest errors in fp32, held by tests/test_vmath.py over all exponents: exp 1.5 ulp, tanh 3, sech^2 6, log 1, log1p 1, softplus 2,
// logistic function 3.
// fp64 goes through libm, lane by lane.
#pragma once
#include <cstdint>

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
template <class T>
constexpr int kLanes = ORD_BYTES / sizeof(T);

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
  const vu normal = (x + 0xC8000FFFu + ((x >> 13) & 1)) >> 13;                  // 65520 and above carry into infinity
  const vu small = (vu)((vf)x + 0.5f) - 0x3F000000;                             // the addition rounds at 2^-24
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

ORD_INLINE vi first_lanes(int n, vf) {
  vi lane = {};
  for (int i = 0; i < kLanes<float>; ++i) lane[i] = i;
  return lane < n;
}
ORD_INLINE vl first_lanes(int n, vd) {
  vl lane = {};
  for (int i = 0; i < kLanes<double>; ++i) lane[i] = i;
  return lane < n;
}

// The first n elements at p, zeros behind. `end`: the end of the tensor, up to which memory may be read.
template <class S>
ORD_INLINE typename Traits<S>::V load(const S* p, int n, const S* end) {
  using V = typename Traits<S>::V;
  constexpr int W = kLanes<typename Traits<S>::T>;
  if (n == W) return load(p);
  if (p + W <= end) return (V)((typename Traits<S>::I)load(p) & first_lanes(n, V{}));
  S some[W] = {};
  for (int i = 0; i < n; ++i) some[i] = p[i];
  return load(some);
}
template <class S>
ORD_INLINE void store(S* p, typename Traits<S>::V v, int n) {
  constexpr int W = kLanes<typename Traits<S>::T>;
  if (n == W) return store(p, v);
  S some[W];
  store(some, v);
  for (int i = 0; i < n; ++i) p[i] = some[i];
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
ORD_INLINE void vectors(int64_t D, F f) {
  constexpr int W = kLanes<T>;
  int64_t d = 0;
  for (; d + W <= D; d += W) f(d, W);
  if (d < D) f(d, (int)(D - d));
}

// ---- across lanes

typedef float v4f __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
typedef int64_t v2l __attribute__((vector_size(16)));

ORD_INLINE float sum(vf v) {
#if ORD_BYTES == 64
  const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
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
template <class I>
ORD_INLINE bool any(I mask) {
  const vl v = (vl)mask;
  int64_t r = 0;
  for (int i = 0; i < ORD_BYTES / 8; ++i) r |= v[i];
  return r != 0;
}

// ---- fp32

ORD_INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7FFFFFFF); }
ORD_INLINE vf with_sign(vf magnitude, vf sign) { return (vf)((vi)magnitude | ((vi)sign & (int32_t)0x80000000)); }

// s and m with exp(x) = s (1 + m) for x in [-87, 88]; NaN goes into m.
ORD_INLINE void exp_parts(vf x, vf& s, vf& m) {
  vf n = x * 1.44269504f + 12582912.0f;  // rounds to the nearest integer: + 1.5 * 2^23, and off again
  const vi i = (vi)n - 0x4B400000;
  n -= 12582912.0f;
  vf r = x - n * 0.693145752f;  // ln 2 in two parts
  r = r - n * 1.42860677e-6f;
  vf p = r * 1.9875691e-4f + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665795e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  m = p * r * r + r;  // expm1(r)
  s = (vf)((i + 127) << 23);
}

// exp(-|x|) and expm1(-|x|); below -87 the truth, under 1.7e-38, is taken as 0.
ORD_INLINE void exp_neg(vf x, vf& e, vf& em1) {
  const vf a = (vf)((vi)x | (int32_t)0x80000000);
  const vi under = a < -87.0f;
  vf s, m;
  exp_parts(under ? (vf){} - 87.0f : a, s, m);
  e = under ? (vf){} : s * m + s;
  em1 = under ? (vf){} - 1.0f : s * m + (s - 1.0f);
}

// log(u) + c for a small correction c; u normal, 0 (-inf), inf or NaN.
ORD_INLINE vf log_plus(vf u, vf c) {
  const vi e = ((vi)u - 0x3F3504F3) >> 23;
  const vf m = (vf)((vi)u - (vi)((vu)e << 23)) - 1.0f;  // in [sqrt(1/2), sqrt(2)) - 1
  vf p = m * 7.0376836e-2f - 1.1514610e-1f;
  p = p * m + 1.1676998e-1f;
  p = p * m - 1.2420141e-1f;
  p = p * m + 1.4249323e-1f;
  p = p * m - 1.6668057e-1f;
  p = p * m + 2.0000714e-1f;
  p = p * m - 2.4999994e-1f;
  p = p * m + 3.3333331e-1f;
  const vf m2 = m * m, ef = __builtin_convertvector(e, vf);
  vf r = p * m2 * m + (ef * -2.12194440e-4f + c);
  r = r - 0.5f * m2;
  r = m + r + ef * 0.693359375f;
  r = u == 0.0f ? (vf){} - __builtin_inff() : r;
  return u < __builtin_inff() ? r : u;  // inf and NaN stay
}

ORD_INLINE vf cbrt_about(vf x) {  // to 0.2 %: a start for Newton
  const vf y = (vf)((vi)x / 3 + 709921077);
  return (2.0f * y + x / (y * y)) * 0.33333334f;
}

// ---- fp64: libm, lane by lane

ORD_INLINE vd absolute(vd x) { return (vd)((vl)x & 0x7FFFFFFFFFFFFFFF); }
ORD_INLINE vd with_sign(vd magnitude, vd sign) { return (vd)((vl)magnitude | ((vl)sign & (int64_t)0x8000000000000000)); }
ORD_INLINE void exp_neg(vd x, vd& e, vd& em1) {
  for (int i = 0; i < kLanes<double>; ++i) {
    e[i] = __builtin_exp(-__builtin_fabs(x[i]));
    em1[i] = __builtin_expm1(-__builtin_fabs(x[i]));
  }
}
ORD_INLINE vd log_plus(vd u, vd c) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) r[i] = __builtin_log(u[i]) + c[i];
  return r;
}
ORD_INLINE vd cbrt_about(vd x) {
  vd r = {};
  for (int i = 0; i < kLanes<double>; ++i) r[i] = __builtin_cbrt(x[i]);
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

// log(1 + exp x) and its derivative.
template <class V>
ORD_INLINE void softplus_sigmoid(V x, V& sp, V& sg) {
  V e, em1;
  exp_neg(x, e, em1);
  const V u = e + 1.0f;
  sp = (x > 0.0f ? x : (x == x ? (V){} : x)) + log_plus(u, (e - (u - 1.0f)) / u);
  const V q = 1.0f / u;
  sg = x >= 0.0f ? q : e * q;
}

}  // namespace ORD_ISA
