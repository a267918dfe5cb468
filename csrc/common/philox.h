// Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3) and fp32 normals from its
// words. Vectorised by hand over blocks of four words; compiled once per instruction set, so no std headers and
// internal linkage only.
//
// Another kernel that generates its own noise calls noise_row(); the words are those of ordkernels.rng, however the
// caller splits its work.
#pragma once
#include <cstdint>

namespace philox {
namespace {

#define PHILOX_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 8;
// One 32-bit word per 64-bit lane; the upper half may hold anything.
typedef uint64_t words __attribute__((vector_size(kBytes)));
// A memcpy of 32 bytes would be split in two, whose reload stalls.
typedef words unaligned_words __attribute__((may_alias, aligned(8)));
typedef int32_t halves __attribute__((vector_size(kBytes)));

// Low half times low half, all 64 bits: one instruction on every x86-64.
PHILOX_INLINE words multiply(words a, words b) {
#if defined(__clang__) || !defined(__x86_64__)
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#elif defined(__AVX512F__)
  return (words)__builtin_ia32_pmuludq512_mask(
      (halves)a, (halves)b, __extension__(__attribute__((vector_size(64))) long long){}, (unsigned char)-1);
#elif defined(__AVX2__)
  return (words)__builtin_ia32_pmuludq256((halves)a, (halves)b);
#else
  return (words)__builtin_ia32_pmuludq128((halves)a, (halves)b);
#endif
}

// Ten rounds on U vectors at once: one alone waits for its multiplications. keys: two a round, computed once for many
// blocks.
template <int U>
PHILOX_INLINE void rounds(words (&c0)[U], words (&c1)[U], words (&c2)[U], words (&c3)[U], const words* keys) {
  const words m0 = words{} + 0xD2511F53u, m1 = words{} + 0xCD9E8D57u;
#pragma GCC unroll 10
  for (int r = 0; r < 10; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < U; ++v) {
      const words p0 = multiply(c0[v], m0), p1 = multiply(c2[v], m1);
      c0[v] = (p1 >> 32) ^ c1[v] ^ keys[2 * r];
      c1[v] = p1;
      c2[v] = (p0 >> 32) ^ c3[v] ^ keys[2 * r + 1];
      c3[v] = p0;
    }
  }
}

constexpr int kBlocks = 64;  // blocks of four words that are generated together

// Of each block: word 0 and 2 into a, word 1 and 3 into b, side by side, so that a[j], b[j] are the pairs of
// Box-Muller.
PHILOX_INLINE void make_words(const uint64_t* __restrict row, const uint64_t* __restrict index, uint64_t step,
                              uint64_t seed, int n, uint64_t* __restrict a, uint64_t* __restrict b) {
  constexpr int U = kBytes == 64 ? 4 : 2;
  words keys[20];
  for (uint32_t r = 0, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32); r < 10;
       ++r, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    keys[2 * r] = words{} + k0;
    keys[2 * r + 1] = words{} + k1;
  }
  for (int i = 0; i < n; i += U * kLanes) {
    words c0[U], c1[U], c2[U], c3[U];
#pragma GCC unroll 4
    for (int v = 0; v < U; ++v) {
      c0[v] = *(const unaligned_words*)(row + i + v * kLanes);
      c3[v] = *(const unaligned_words*)(index + i + v * kLanes);
      c1[v] = c0[v] >> 32;
      c2[v] = words{} + step;
    }
    rounds<U>(c0, c1, c2, c3, keys);
#pragma GCC unroll 4
    for (int v = 0; v < U; ++v) {
      *(unaligned_words*)(a + i + v * kLanes) = (c0[v] & 0xFFFFFFFFu) | (c2[v] << 32);
      *(unaligned_words*)(b + i + v * kLanes) = (c1[v] & 0xFFFFFFFFu) | (c3[v] << 32);
    }
  }
}

PHILOX_INLINE int32_t bits(float x) { return __builtin_bit_cast(int32_t, x); }
PHILOX_INLINE float from_bits(int32_t i) { return __builtin_bit_cast(float, i); }

// (m + 1/2) 2^-24, m the upper 24 bits: 25 bits rounded to 24, so 1 can come, 0 cannot.
PHILOX_INLINE float uniform(uint32_t x) { return ((float)(int32_t)(x >> 8) + 0.5f) * 0x1p-24f; }

// sqrt(-2 ln u) of the unrounded u = k 2^-25, k = 2 m + 1: near u = 1 a rounded one would leave no digit of the radius.
PHILOX_INLINE float radius(uint32_t x) {
  const int32_t k = (int32_t)((x >> 7) | 1);
  const int32_t e = (bits((float)k) - 0x3F3504F3) >> 23;  // k 2^-e in [sqrt 1/2, sqrt 2)
  const float w = (float)(k - (int32_t)from_bits((e + 127) << 23)) * from_bits((127 - e) << 23);  // k 2^-e - 1, exact
  const float n = (float)(e - 25), w2 = w * w;
  float p = 7.0376836292e-2f;  // ln(1 + w): Cephes
  p = p * w - 1.1514610310e-1f;
  p = p * w + 1.1676998740e-1f;
  p = p * w - 1.2420140846e-1f;
  p = p * w + 1.4249322787e-1f;
  p = p * w - 1.6668057665e-1f;
  p = p * w + 2.0000714765e-1f;
  p = p * w - 2.4999993993e-1f;
  p = p * w + 3.3333331174e-1f;
  const float low = (p * w2 * w + n * -2.12194440e-4f) - 0.5f * w2;
  const float log = (w + low) + n * 0.693359375f;
  return __builtin_sqrtf(-2.0f * log);
}

// Box-Muller. The angle 2 pi u of the unrounded u = k 2^-25 is reduced to an eighth of a turn in integers, exactly.
PHILOX_INLINE float sine(float t) {
  return t + t * t * t * (-1.6666654611e-1f + t * t * (8.3321608736e-3f + t * t * -1.9515295891e-4f));
}
PHILOX_INLINE float cosine(float t) {
  return 1.0f +
         t * t *
             (-0.5f +
              t * t * (4.166664568298827e-2f + t * t * (-1.388731625493765e-3f + t * t * 2.443315711809948e-5f)));
}

// Pairs of words -> pairs of floats. By value throughout, and not inlined: references into the loop and the loss of
// `__restrict` both stop the vectoriser.
[[maybe_unused]] __attribute__((noinline)) static void normals(const uint32_t* __restrict a,
                                                               const uint32_t* __restrict b, int n,
                                                               float* __restrict out) {
  // j is not int: under -fwrapv (which setuptools adds) 2 * j could wrap, and nothing would be vectorised.
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const int32_t k = (int32_t)((b[j] >> 7) | 1);
    const int32_t q = (k + (1 << 22)) >> 23, odd = -(q & 1);
    const float t = (float)(k - (q << 23)) * 1.87253514146e-7f;  // 2 pi / 2^25
    const float r = radius(a[j]);
    const int32_t x = bits(cosine(t)), y = bits(sine(t));
    out[2 * j] = r * from_bits(((y & odd) | (x & ~odd)) ^ (int32_t)((uint32_t)((q + 1) & 2) << 30));
    out[2 * j + 1] = r * from_bits(((x & odd) | (y & ~odd)) ^ (int32_t)((uint32_t)(q & 2) << 30));
  }
}

[[maybe_unused]] __attribute__((noinline)) static void uniforms(const uint32_t* __restrict a,
                                                                const uint32_t* __restrict b, int n,
                                                                float* __restrict out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    out[2 * j] = uniform(a[j]);
    out[2 * j + 1] = uniform(b[j]);
  }
}

// Up to kBlocks blocks -> floats; row and index are read, and out written, up to kBlocks of them.
template <bool NORMAL>
PHILOX_INLINE void blocks(const uint64_t* row, const uint64_t* index, uint64_t step, uint64_t seed, int n, float* out) {
  alignas(64) uint64_t a[kBlocks], b[kBlocks];
  constexpr int grain = 4 * kLanes;
  n = (n + grain - 1) / grain * grain;
  make_words(row, index, step, seed, n, a, b);
  (NORMAL ? normals : uniforms)((const uint32_t*)a, (const uint32_t*)b, 2 * n, out);
}

// Floats first, ..., first + n - 1 of one row and step.
template <bool NORMAL>
static inline void noise_row(uint64_t row, uint64_t first, uint64_t step, uint64_t seed, int64_t n, float* out) {
  alignas(64) uint64_t rows[kBlocks], index[kBlocks];
  alignas(64) float generated[4 * kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    rows[i] = row;
  }
  for (int64_t done = 0; done < n;) {
    const uint64_t block = (first + done) / 4;
    const int skip = (int)((first + done) % 4);
    const int64_t left = (n - done + skip + 3) / 4;
    const int m = left < kBlocks ? (int)left : kBlocks;
    for (int i = 0; i < kBlocks; ++i) {
      index[i] = block + i;
    }
    blocks<NORMAL>(rows, index, step, seed, m, generated);
    const int64_t take = 4 * m - skip < n - done ? 4 * m - skip : n - done;
    for (int64_t i = 0; i < take; ++i) {
      out[done + i] = generated[skip + i];
    }
    done += take;
  }
}

}  // namespace
}  // namespace philox
