// Rows sorted eight at once: one row per column of a tile [L, 8], and a sorting network compares whole tile rows. A
// number and its place share one key, so the sort is stable and yields the places too.
#pragma once
#include <cstdint>

namespace ORD_ISA {
namespace row_sort {

constexpr int kRows = 8;

#define RS_INLINE static inline __attribute__((always_inline))
struct Bf16 {
  uint16_t bits;
};
typedef _Float16 Fp16;

RS_INLINE float load(float x) { return x; }
RS_INLINE double load(double x) { return x; }
RS_INLINE float load(Fp16 x) { return (float)x; }
RS_INLINE float load(Bf16 x) { return __builtin_bit_cast(float, (uint32_t)x.bits << 16); }
RS_INLINE void store(float* to, float x) { *to = x; }
RS_INLINE void store(double* to, double x) { *to = x; }
RS_INLINE void store(Fp16* to, float x) { *to = (Fp16)x; }
RS_INLINE void store(Bf16* to, float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  to->bits = (uint16_t)(x == x ? (u + 0x7FFF + ((u >> 16) & 1)) >> 16 : 0x7FC0);
}

// fp32: the sort key is a positive normal double whose bits are 2^52 + (32 bits of the number | 30 of its place), so
// that one vector minimum and one maximum order two of them. Equal numbers (0 and -0 too) by place, NaN last.
struct Key32 {
  double d;
};
RS_INLINE void pack(float x, int64_t place, Key32& k) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x == x ? x + 0.0f : __builtin_nanf(""));
  const uint32_t rising = u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
  k.d = __builtin_bit_cast(double, (UINT64_C(1) << 52) + (((uint64_t)rising << 30) | (uint64_t)place));
}
RS_INLINE uint64_t payload(Key32 k) { return __builtin_bit_cast(uint64_t, k.d) - (UINT64_C(1) << 52); }
RS_INLINE float number(Key32 k) {
  const uint32_t rising = (uint32_t)(payload(k) >> 30);
  return __builtin_bit_cast(float, rising ^ ((uint32_t)((int32_t)~rising >> 31) | 0x80000000u));
}
RS_INLINE int64_t place(Key32 k) { return (int64_t)(payload(k) & 0x3FFFFFFF); }
#if defined(__AVX512F__)
typedef double Lanes __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef double Lanes __attribute__((vector_size(32)));
#else
typedef double Lanes __attribute__((vector_size(16)));
#endif
// One instruction each; the comparison written out becomes two (a NaN and a -0 would tell them apart; a key is
// neither).
RS_INLINE Lanes smaller(Lanes a, Lanes b) {
#if defined(__clang__) || !defined(__x86_64__)
  return a < b ? a : b;
#elif defined(__AVX512F__)
  return __builtin_ia32_minpd512_mask(a, b, a, (unsigned char)-1, 4);
#elif defined(__AVX2__)
  return __builtin_ia32_minpd256(a, b);
#else
  return __builtin_ia32_minpd(a, b);
#endif
}
RS_INLINE Lanes larger(Lanes a, Lanes b) {
#if defined(__clang__) || !defined(__x86_64__)
  return a < b ? b : a;
#elif defined(__AVX512F__)
  return __builtin_ia32_maxpd512_mask(a, b, a, (unsigned char)-1, 4);
#elif defined(__AVX2__)
  return __builtin_ia32_maxpd256(a, b);
#else
  return __builtin_ia32_maxpd(a, b);
#endif
}
typedef Lanes Place __attribute__((may_alias, aligned(8)));
RS_INLINE void exchange(Key32* x, Key32* y) {
  Place *p = (Place*)x, *q = (Place*)y;
#pragma GCC unroll 4
  for (unsigned i = 0; i < kRows * 8 / sizeof(Lanes); ++i) {
    const Lanes a = p[i], b = q[i];
    p[i] = smaller(a, b);
    q[i] = larger(a, b);
  }
}

// fp64: number and place side by side.
struct Key64 {
  int64_t rising, where;
};
RS_INLINE void pack(double x, int64_t place, Key64& k) {
  const int64_t u = __builtin_bit_cast(int64_t, x == x ? x + 0.0 : __builtin_nan(""));
  k = {u ^ ((u >> 63) & INT64_MAX), place};
}
RS_INLINE double number(Key64 k) { return __builtin_bit_cast(double, k.rising ^ ((k.rising >> 63) & INT64_MAX)); }
RS_INLINE int64_t place(Key64 k) { return k.where; }
RS_INLINE void exchange(Key64* __restrict x, Key64* __restrict y) {
  for (int64_t i = 0; i < kRows; ++i) {
    const Key64 a = x[i], b = y[i];
    const bool swap = a.rising > b.rising || (a.rising == b.rising && a.where > b.where);
    x[i] = swap ? b : a;
    y[i] = swap ? a : b;
  }
}

// Batcher's merge exchange for any L (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M): calls pair(low,
// high).
template <class Pair>
RS_INLINE void network(int64_t L, const Pair& pair) {
  int64_t top = 1;
  while (2 * top < L) {
    top *= 2;
  }
  for (int64_t p = L < 2 ? 0 : top; p > 0; p /= 2) {
    for (int64_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
      for (int64_t i = r; i < L - d; i += 2 * p) {
        for (int64_t j = i; j < i + p && j < L - d; ++j) {
          pair(j, j + d);
        }
      }
      if (q == p) {
        break;
      }
    }
  }
}

// The pairs of a short network, written down once: its loops are so short that their branches cost more than the
// exchanges.
struct Network {
  static constexpr int64_t kLongest = 128;
  struct {
    uint16_t low, high;
  } pairs[1471];
  int64_t n = 0;
  explicit Network(int64_t L) {
    if (L <= kLongest) {
      network(L, [&](int64_t j, int64_t k) { pairs[n++] = {(uint16_t)(j * kRows), (uint16_t)(k * kRows)}; });
    }
  }
};

// Each column of a tile [L, kRows].
template <class Key>
static void sort_columns(const Network& net, Key* tile, int64_t L) {
  if (L <= Network::kLongest) {
    for (int64_t i = 0; i < net.n; ++i) {
      exchange(tile + net.pairs[i].low, tile + net.pairs[i].high);
    }
  } else {
    network(L, [&](int64_t j, int64_t k) { exchange(tile + j * kRows, tile + k * kRows); });
  }
}

}  // namespace row_sort
}  // namespace ORD_ISA
