// Sorted samples against two quantile vectors. samples, q_user, q_item [B,L]; lam [B]; rows [begin, end).
//
// Rows are sorted eight at once: one row per column of a tile [L, 8], and a sorting network compares whole tile rows. A number
// and its place share one key, so the sort is stable, and the place comes along for nothing.
#pragma once
#include <cstdint>

namespace ORD_ISA {
namespace wasserstein {

constexpr int kRows = 8;

#define WD_INLINE static inline __attribute__((always_inline))
struct Bf16 {
  uint16_t bits;
};
typedef _Float16 Fp16;

WD_INLINE float load(float x) { return x; }
WD_INLINE double load(double x) { return x; }
WD_INLINE float load(Fp16 x) { return (float)x; }
WD_INLINE float load(Bf16 x) { return __builtin_bit_cast(float, (uint32_t)x.bits << 16); }
WD_INLINE void store(float* to, float x) { *to = x; }
WD_INLINE void store(double* to, double x) { *to = x; }
WD_INLINE void store(Fp16* to, float x) { *to = (Fp16)x; }
WD_INLINE void store(Bf16* to, float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  to->bits = (uint16_t)(x == x ? (u + 0x7FFF + ((u >> 16) & 1)) >> 16 : 0x7FC0);
}

// fp32: the sort key is a positive normal double whose bits are 2^52 + (32 bits of the number | 30 of its place), so that one
// vector minimum and one maximum order two of them. Equal numbers (0 and -0 too) by place, NaN last.
struct Key32 {
  double d;
};
WD_INLINE void pack(float x, int64_t place, Key32& k) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x == x ? x + 0.0f : __builtin_nanf(""));
  const uint32_t rising = u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
  k.d = __builtin_bit_cast(double, (UINT64_C(1) << 52) + (((uint64_t)rising << 30) | (uint64_t)place));
}
WD_INLINE uint64_t payload(Key32 k) { return __builtin_bit_cast(uint64_t, k.d) - (UINT64_C(1) << 52); }
WD_INLINE float number(Key32 k) {
  const uint32_t rising = (uint32_t)(payload(k) >> 30);
  return __builtin_bit_cast(float, rising ^ ((uint32_t)((int32_t)~rising >> 31) | 0x80000000u));
}
WD_INLINE int64_t place(Key32 k) { return (int64_t)(payload(k) & 0x3FFFFFFF); }
#if defined(__AVX512F__)
typedef double Lanes __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef double Lanes __attribute__((vector_size(32)));
#else
typedef double Lanes __attribute__((vector_size(16)));
#endif
// One instruction each; the comparison written out becomes two (a NaN and a -0 would tell them apart; a key is neither).
WD_INLINE Lanes smaller(Lanes a, Lanes b) {
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
WD_INLINE Lanes larger(Lanes a, Lanes b) {
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
WD_INLINE void exchange(Key32* x, Key32* y) {
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
WD_INLINE void pack(double x, int64_t place, Key64& k) {
  const int64_t u = __builtin_bit_cast(int64_t, x == x ? x + 0.0 : __builtin_nan(""));
  k = {u ^ ((u >> 63) & INT64_MAX), place};
}
WD_INLINE double number(Key64 k) { return __builtin_bit_cast(double, k.rising ^ ((k.rising >> 63) & INT64_MAX)); }
WD_INLINE int64_t place(Key64 k) { return k.where; }
WD_INLINE void exchange(Key64* __restrict x, Key64* __restrict y) {
  for (int64_t i = 0; i < kRows; ++i) {
    const Key64 a = x[i], b = y[i];
    const bool swap = a.rising > b.rising || (a.rising == b.rising && a.where > b.where);
    x[i] = swap ? b : a;
    y[i] = swap ? a : b;
  }
}

// Batcher's merge exchange for any L (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M): calls pair(low, high).
template <class Pair>
WD_INLINE void network(int64_t L, const Pair& pair) {
  int64_t top = 1;
  while (2 * top < L) top *= 2;
  for (int64_t p = L < 2 ? 0 : top; p > 0; p /= 2)
    for (int64_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
      for (int64_t i = r; i < L - d; i += 2 * p)
        for (int64_t j = i; j < i + p && j < L - d; ++j) pair(j, j + d);
      if (q == p) break;
    }
}

// The pairs of a short network, written down once: its loops are so short that their branches cost more than the exchanges.
struct Network {
  static constexpr int64_t kLongest = 128;
  struct {
    uint16_t low, high;
  } pairs[1471];
  int64_t n = 0;
  explicit Network(int64_t L) {
    if (L <= kLongest)
      network(L, [&](int64_t j, int64_t k) { pairs[n++] = {(uint16_t)(j * kRows), (uint16_t)(k * kRows)}; });
  }
};

// Each column of a tile [L, kRows].
template <class Key>
static void sort_columns(const Network& net, Key* tile, int64_t L) {
  if (L <= Network::kLongest)
    for (int64_t i = 0; i < net.n; ++i) exchange(tile + net.pairs[i].low, tile + net.pairs[i].high);
  else
    network(L, [&](int64_t j, int64_t k) { exchange(tile + j * kRows, tile + k * kRows); });
}

template <class F>
WD_INLINE uint8_t code(F x) {  // 0: zero, 1: positive, 2: negative, 3: NaN
  return (uint8_t)((x > 0) + 2 * (x < 0) + 3 * (x != x));
}

// tile [L, kRows] and keys [L]: the thread's workspace. signs [B,2,L], by rank and by place, or null.
template <class T, class F, class Key>
static void forward(const T* __restrict samples, const T* __restrict q_user, const T* __restrict q_item, const F* __restrict lam,
                    T* __restrict loss, uint8_t* __restrict signs, F* __restrict slope, Key* __restrict tile, Key* __restrict keys,
                    int64_t L, int64_t begin, int64_t end) {
  const Network net(L);
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t n = end - r0 < kRows ? end - r0 : kRows;
    if (n < kRows)
      for (int64_t i = 0; i < L * kRows; ++i) pack((F)0, 0, tile[i]);
    for (int64_t r = 0; r < n; ++r) {
      const T* __restrict x = samples + (r0 + r) * L;
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) pack(load(x[l]), l, keys[l]);
      for (int64_t l = 0; l < L; ++l) tile[l * kRows + r] = keys[l];
    }
    sort_columns(net, tile, L);
    for (int64_t r = 0; r < n; ++r) {
      const T *__restrict u = q_user + (r0 + r) * L, *__restrict v = q_item + (r0 + r) * L;
      for (int64_t l = 0; l < L; ++l) keys[l] = tile[l * kRows + r];
      F to_user = 0, to_item = 0;
#pragma omp simd reduction(+ : to_user, to_item)
      for (int64_t l = 0; l < L; ++l) {
        const F s = number(keys[l]), a = s - load(u[l]), b = s - load(v[l]);
        to_user += a < 0 ? -a : a;
        to_item += b < 0 ? -b : b;
      }
      const F w = lam[r0 + r];
      store(loss + r0 + r, (w * to_user + (1 - w) * to_item) / (F)L);
      slope[r0 + r] = (to_user - to_item) / (F)L;
      if (!signs) continue;
      uint8_t* __restrict by_rank = signs + (r0 + r) * 2 * L;
      uint8_t* __restrict by_place = by_rank + L;
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        const F s = number(keys[l]);
        by_rank[l] = (uint8_t)(code(s - load(u[l])) + 4 * code(s - load(v[l])));
      }
      for (int64_t l = 0; l < L; ++l) by_place[place(keys[l])] = by_rank[l];
    }
  }
}

template <class F>
WD_INLINE F sign(int32_t c) {
  const F s = (F)((c & 1) - ((c >> 1) & 1));
  return (c & 3) == 3 ? (F)__builtin_nanf("") : s;
}

// Null for a gradient that is not wanted.
template <class T, class F>
static void backward(const uint8_t* __restrict signs, const F* __restrict slope, const F* __restrict lam, const T* __restrict g,
                     T* __restrict gs, T* __restrict gu, T* __restrict gv, F* __restrict glam, int64_t L, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t *__restrict by_rank = signs + r * 2 * L, *__restrict by_place = by_rank + L;
    const F gr = load(g[r]), user = lam[r] * gr / (F)L, item = (1 - lam[r]) * gr / (F)L;
    if (gs)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) store(gs + r * L + l, user * sign<F>(by_place[l]) + item * sign<F>(by_place[l] >> 2));
    if (gu)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) store(gu + r * L + l, -user * sign<F>(by_rank[l]));
    if (gv)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) store(gv + r * L + l, -item * sign<F>(by_rank[l] >> 2));
    if (glam) glam[r] = gr * slope[r];
  }
}

}  // namespace wasserstein

// dtype: 0 fp32, 1 fp64, 2 bf16, 3 fp16. workspace: (kRows + 1) * L keys, of 8 bytes for fp32 and below, of 16 for fp64.
void wasserstein_forward(int dtype, const void* s, const void* u, const void* v, const void* lam, void* loss, uint8_t* signs,
                         void* slope, void* workspace, int64_t L, int64_t begin, int64_t end) {
  namespace w = wasserstein;
#define WD_RUN(T, F, K)                                                                                                              \
  w::forward<T, F, K>((const T*)s, (const T*)u, (const T*)v, (const F*)lam, (T*)loss, signs, (F*)slope, (K*)workspace,                \
                      (K*)workspace + w::kRows * L, L, begin, end)
  if (dtype == 0) WD_RUN(float, float, w::Key32);
  else if (dtype == 1) WD_RUN(double, double, w::Key64);
  else if (dtype == 2) WD_RUN(w::Bf16, float, w::Key32);
  else WD_RUN(w::Fp16, float, w::Key32);
#undef WD_RUN
}

void wasserstein_backward(int dtype, const uint8_t* signs, const void* slope, const void* lam, const void* g, void* gs, void* gu,
                          void* gv, void* glam, int64_t L, int64_t begin, int64_t end) {
  namespace w = wasserstein;
#define WD_RUN(T, F)                                                                                                                 \
  w::backward<T, F>(signs, (const F*)slope, (const F*)lam, (const T*)g, (T*)gs, (T*)gu, (T*)gv, (F*)glam, L, begin, end)
  if (dtype == 0) WD_RUN(float, float);
  else if (dtype == 1) WD_RUN(double, double);
  else if (dtype == 2) WD_RUN(w::Bf16, float);
  else WD_RUN(w::Fp16, float);
#undef WD_RUN
}
#undef WD_INLINE

}  // namespace ORD_ISA
