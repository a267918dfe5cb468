// Loads and stores of vectors in every storage type, whole and of the first lanes, and loops over arrays.
#pragma once
#include "cpu/simd/vectors.h"

namespace ORD_ISA {

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

// One element in the type that it is computed in.
ORD_INLINE float scalar(float x) { return x; }
ORD_INLINE double scalar(double x) { return x; }
ORD_INLINE float scalar(bf16 h) { return __builtin_bit_cast(float, (uint32_t)h.x << 16); }
ORD_INLINE float scalar(f16 h) {
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
    f(d, W);
    f(d + W, W);
    f(d + 2 * W, W);
    f(d + 3 * W, W);
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
    f(d, W, 0);
    f(d + W, W, 1);
  }
  if (d + W <= D) {
    f(d, W, 0);
    d += W;
  }
  if (d < D) {
    f(d, (int)(D - d), 1);
  }
}

}  // namespace ORD_ISA
