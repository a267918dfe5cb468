// Small matrix products on tiles of 64 columns: matrices lie as [tiles][rows][64], weights as tiles of 64 inputs x 64
// outputs, so that every stride is a constant. Every sum runs over its inputs in one order whatever the number of rows,
// so a row's bits do not depend on the rows around it.
#pragma once
#include "cpu/gemm/gemm_tile_size.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {

// c [rows, 64] = start (+ bias) + a [rows, k] tile [k, 64]; rows of a and c are 64 apart. "Across": a is [k, rows].
template <class T>
struct TileProduct {
  const T *a, *tile;
  int64_t k;
  const T* start;
  int64_t start_row;  // 64, or 0: the same row for all
  const T* bias;      // [64] or null
  T* c;
  int64_t columns;  // only the first ones are needed
};

namespace {

// c [M, NV vectors] = p (+ q) + a [M, k] b [k, NV vectors]; rows of a, c are 64 apart, rows of p are `p_row` apart.
template <class T, int M, int NV, bool kAcross>
ORD_INLINE void product(const T* a, const T* b, int64_t k, const T* p, int64_t p_row, const T* q, T* c) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  V acc[M][NV];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      acc[m][v] = load(p + m * p_row + v * W);
    }
  if (q) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const V qv = load(q + v * W);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        acc[m][v] += qv;
      }
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    V bv[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      bv[v] = load(b + i * kTileWidth + v * W);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const T am = kAcross ? a[i * kTileWidth + m] : a[m * kTileWidth + i];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        acc[m][v] += am * bv[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      store(c + m * kTileWidth + v * W, acc[m][v]);
    }
}

// The widest panel for M rows that stays in registers: 12 sums of 16 registers, 24 of the 32 that AVX-512 has.
template <class T, int M>
constexpr int kPanel = ORD_BYTES == 64 ? (sizeof(T) == 4 ? 4
                                          : M > 3        ? 4
                                                         : 8)
                       : M == 1        ? 8
                       : M < 4         ? 4
                                       : 2;

// `n` strips of M rows by one tile.
template <class T, int M, bool kAcross>
__attribute__((noinline)) static void strips(int64_t n, const TileProduct<T>& p) {
  constexpr int NV = kPanel<T, M>, N = NV * kLanes<T>;
  for (int64_t j = 0; j < p.columns; j += N) {
    for (int64_t s = 0; s < n; ++s) {
      product<T, M, NV, kAcross>(p.a + s * M * (kAcross ? 1 : kTileWidth), p.tile + j, p.k,
                                 p.start + s * M * p.start_row + j, p.start_row, p.bias ? p.bias + j : nullptr,
                                 p.c + s * M * kTileWidth + j);
    }
  }
}

template <class T, bool kAcross>
static void strips_of(int64_t m, int64_t n, const TileProduct<T>& p) {
  switch (m) {
    case 1: return strips<T, 1, kAcross>(n, p);
    case 2: return strips<T, 2, kAcross>(n, p);
    case 3: return strips<T, 3, kAcross>(n, p);
    case 4: return strips<T, 4, kAcross>(n, p);
    case 5: return strips<T, 5, kAcross>(n, p);
    case 6: return strips<T, 6, kAcross>(n, p);
  }
}

// In strips of up to six rows, as even as can be.
template <class T, bool kAcross = false>
static void multiply_in_strips(int64_t rows, const TileProduct<T>& p) {
  const int64_t n = (rows + 5) / 6, low = rows / n, big = rows % n, r = big * (low + 1);
  if (!big) {
    return strips_of<T, kAcross>(low, n, p);
  }
  strips_of<T, kAcross>(low + 1, big, p);
  TileProduct<T> rest = p;
  rest.a += r * (kAcross ? 1 : kTileWidth);
  rest.start += r * p.start_row;
  rest.c += r * kTileWidth;
  strips_of<T, kAcross>(low, n - big, rest);
}

// w [n, k], rows `stride` apart -> tiles [tiles of n][tiles of k][64 k][64 n]; columns past n are zero.
template <class T>
static void pack(const T* w, int64_t stride, int64_t n, int64_t k, T* to) {
  constexpr int64_t P = 8;
  for (int64_t j = 0; j < n; j += kTileWidth) {
    for (int64_t i = 0; i < k; i += kTileWidth, to += kTileWidth * kTileWidth) {
      const int64_t N = n - j < kTileWidth ? n - j : kTileWidth, k_here = k - i < kTileWidth ? k - i : kTileWidth;
      if (N < kTileWidth) {
        __builtin_memset(to, 0, kTileWidth * kTileWidth * sizeof(T));
      }
      int64_t jj = 0;
      for (; jj + P <= N; jj += P) {
        int64_t ii = 0;
        for (; ii + P <= k_here; ii += P) {
          typedef T V8 __attribute__((vector_size(P * sizeof(T)), aligned(sizeof(T))));
          V8 r[P], s[P];
          const T* from = w + (j + jj) * stride + i + ii;
#pragma GCC unroll 8
          for (int l = 0; l < P; ++l) {
            r[l] = *(const V8*)(from + l * stride);
          }
#pragma GCC unroll 8
          for (int l = 0; l < P; l += 2) {
            s[l] = __builtin_shufflevector(r[l], r[l + 1], 0, 8, 2, 10, 4, 12, 6, 14);
            s[l + 1] = __builtin_shufflevector(r[l], r[l + 1], 1, 9, 3, 11, 5, 13, 7, 15);
          }
#pragma GCC unroll 8
          for (int l = 0; l < P; ++l) {
            if (!(l & 2)) {
              r[l] = __builtin_shufflevector(s[l], s[l + 2], 0, 1, 8, 9, 4, 5, 12, 13);
              r[l + 2] = __builtin_shufflevector(s[l], s[l + 2], 2, 3, 10, 11, 6, 7, 14, 15);
            }
          }
          T* const out = to + ii * kTileWidth + jj;
#pragma GCC unroll 4
          for (int l = 0; l < 4; ++l) {
            *(V8*)(out + l * kTileWidth) = __builtin_shufflevector(r[l], r[l + 4], 0, 1, 2, 3, 8, 9, 10, 11);
            *(V8*)(out + (l + 4) * kTileWidth) = __builtin_shufflevector(r[l], r[l + 4], 4, 5, 6, 7, 12, 13, 14, 15);
          }
        }
        for (; ii < k_here; ++ii) {
          for (int64_t l = 0; l < P; ++l) {
            to[ii * kTileWidth + jj + l] = w[(j + jj + l) * stride + i + ii];
          }
        }
      }
      for (; jj < N; ++jj) {
        for (int64_t ii = 0; ii < k_here; ++ii) {
          to[ii * kTileWidth + jj] = w[(j + jj) * stride + i + ii];
        }
      }
    }
  }
}

// rows [n, width], `width` apart -> [tiles][n][64], zeros behind
template <class T>
static void to_tiles(const T* from, int64_t n, int64_t width, T* to) {
  for (int64_t i = 0; i < tiles_of(width); ++i) {
    for (int64_t r = 0; r < n; ++r, to += kTileWidth) {
      const int64_t w = tile_columns(width, i);
      if (w < kTileWidth) {
        __builtin_memset(to, 0, kTileWidth * sizeof(T));
      }
      __builtin_memcpy(to, from + r * width + i * kTileWidth, w * sizeof(T));
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
