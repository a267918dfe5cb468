// Products of bf16 numbers summed in fp32 by AVX-512 BF16, which multiplies the two of a pair at once: tiles as in
// gemm_tile.h, with inputs 2 i and 2 i + 1 side by side, so a row of 64 is 32 words and a tile of weights 32 x 64
// words.
#pragma once
#include "cpu/gemm/gemm_tile_size.h"
#include "cpu/simd/vmath.h"

#if ORD_BYTES == 64 && defined(__x86_64__)
#include <immintrin.h>

#define ORD_PAIRS __attribute__((target("avx512bf16")))

namespace ORD_ISA {
namespace {

// x / (1 + exp(-x)) to 2e-4 of itself, an eighth of what rounding it to bf16 adds.
ORD_PAIRS inline __attribute__((always_inline)) __m512 silu_about(__m512 x) {
  constexpr __mmask16 kAll = 0xFFFF;  // the plain forms read a vector that is not there, of which GCC warns
  const __m512 z = x * -1.44269504f,
               f = _mm512_reduce_ps(z, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // z - floor(z)
  __m512 p = f * 0.07802452f + 0.22606716f;                                         // 2^f, relative error 8e-5
  p = p * f + 0.69583354f;
  p = p * f + 0.99992522f;
  return x * _mm512_maskz_rcp14_ps(kAll, _mm512_maskz_scalef_ps(kAll, p, z) + 1.0f);
}

ORD_PAIRS inline __attribute__((always_inline)) void store_pairs(uint32_t* to, __m512 low, __m512 high) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// x [n] to bf16, n a multiple of 32.
ORD_PAIRS __attribute__((noinline)) static void to_pairs(const float* x, int64_t n, uint32_t* to) {
  for (int64_t i = 0; i < n; i += 32, to += 16) {
    store_pairs(to, _mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i + 16));
  }
}

// A tile [64, 64] of weights that are bf16 numbers, inputs [0, k), to pairs.
static void pack_pairs(const float* tile, int64_t k, uint32_t* to) {
  for (int64_t i = 0; i < kTileWidth; i += 2) {
    for (int64_t j = 0; j < kTileWidth; ++j) {
      const uint32_t low = i < k ? __builtin_bit_cast(uint32_t, tile[i * kTileWidth + j]) >> 16 : 0;
      *to++ = low | (i + 1 < k ? __builtin_bit_cast(uint32_t, tile[(i + 1) * kTileWidth + j]) & 0xFFFF0000 : 0);
    }
  }
}

// What one product reads: `tiles` tiles of inputs, of the last one `last` pairs; the words from one tile to the next.
struct Pairs {
  const uint32_t *a, *b;
  int64_t a_tile, b_tile, tiles, last;
};

// `n` strips of M rows: c [n M, 64] = p (+ q) + a b in fp32, or silu of that in bf16. Rows of p are `p_row` apart.
template <int M, bool kSilu>
ORD_PAIRS __attribute__((noinline)) static void strips_of_pairs(int64_t n, Pairs x, const float* p, int64_t p_row,
                                                                const float* q, void* c) {
  for (int64_t s = 0; s < n; ++s, x.a += M * kTileWidth / 2, p += M * p_row) {
    __m512 acc[M][4];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        acc[m][v] = _mm512_loadu_ps(p + m * p_row + 16 * v);
        if (q) {
          acc[m][v] += _mm512_loadu_ps(q + 16 * v);
        }
      }
    for (int64_t t = 0; t < x.tiles; ++t) {
      const uint32_t *at = x.a + t * x.a_tile,
                     *bt = x.b + t * x.b_tile, *const end = at + (t + 1 < x.tiles ? kTileWidth / 2 : x.last);
      for (; at != end; ++at, bt += kTileWidth) {
        __m512bh bv[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          bv[v] = (__m512bh)_mm512_loadu_si512(bt + 16 * v);
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const __m512bh am = (__m512bh)_mm512_set1_epi32((int)at[m * (kTileWidth / 2)]);
#pragma GCC unroll 4
          for (int v = 0; v < 4; ++v) {
            acc[m][v] = _mm512_dpbf16_ps(acc[m][v], am, bv[v]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int v = 0; v < 4; v += 2) {
        const int64_t at = (s * M + m) * kTileWidth + 16 * v;
        if constexpr (kSilu) {
          store_pairs((uint32_t*)c + at / 2, silu_about(acc[m][v]), silu_about(acc[m][v + 1]));
        } else {
          _mm512_storeu_ps((float*)c + at, acc[m][v]);
          _mm512_storeu_ps((float*)c + at + 16, acc[m][v + 1]);
        }
      }
  }
}

// All rows, in strips of up to six, as even as can be.
template <bool kSilu>
static void multiply_pairs(int64_t rows, Pairs x, const float* p, int64_t p_row, const float* q, void* c) {
  const auto strips = [&](int64_t m, int64_t n) {
    switch (m) {
      case 1: strips_of_pairs<1, kSilu>(n, x, p, p_row, q, c); break;
      case 2: strips_of_pairs<2, kSilu>(n, x, p, p_row, q, c); break;
      case 3: strips_of_pairs<3, kSilu>(n, x, p, p_row, q, c); break;
      case 4: strips_of_pairs<4, kSilu>(n, x, p, p_row, q, c); break;
      case 5: strips_of_pairs<5, kSilu>(n, x, p, p_row, q, c); break;
      case 6: strips_of_pairs<6, kSilu>(n, x, p, p_row, q, c); break;
    }
    x.a += m * n * kTileWidth / 2;
    p += m * n * p_row;
    c = (char*)c + m * n * kTileWidth * (kSilu ? 2 : 4);
  };
  const int64_t n = (rows + 5) / 6, low = rows / n, big = rows % n;
  if (big) {
    strips(low + 1, big);
  }
  strips(low, n - big);
}

}  // namespace
}  // namespace ORD_ISA
#endif
