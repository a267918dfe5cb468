// Many short sorts at once: the loops of sorting_network.cpp for one instruction set (see per_isa.h).

namespace ordkernels::host::ORD_ISA {

template <class K>
constexpr int kTileWidth = ORD_BYTES / sizeof(K) > 8 ? ORD_BYTES / sizeof(K) : 8;

// Rows x and y, elementwise: the smaller keys to x, the larger to y.
template <class K>
ORD_TARGET inline __attribute__((always_inline)) void exchange_rows(K* __restrict x, K* __restrict y) {
#pragma omp simd
  for (int g = 0; g < kTileWidth<K>; ++g) {
    const K a = x[g], b = y[g];
    x[g] = a < b ? a : b;
    y[g] = a < b ? b : a;
  }
}

// Sorts each column of tile [n, kTileWidth] downwards: Batcher's merge exchange for any n (Knuth, The Art of Computer
// Programming 3, 5.2.2, algorithm M), n log^2 n / 4 row exchanges.
template <class K>
ORD_TARGET void sort_columns(K* tile, int64_t n) {
  if (n < 2) {
    return;
  }
  int64_t top = 1;
  while (2 * top < n) {
    top *= 2;
  }
  for (int64_t p = top; p > 0; p /= 2) {
    for (int64_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
      for (int64_t i = r; i < n - d; i += 2 * p) {
        const int64_t end = i + p < n - d ? i + p : n - d;
        for (int64_t j = i; j < end; ++j) {
          exchange_rows(tile + j * kTileWidth<K>, tile + (j + d) * kTileWidth<K>);
        }
      }
      if (q == p) {
        break;
      }
    }
  }
}

#include "cpu/simd/transpose.h"

// group[g] [size[g]] into column g of a tile, as keys (float_keys.h), the largest key below them; one vector of each
// group at a time. `end` is that of the array which the groups lie in. Writes up to 16 rows past the last.
template <class F, class K>
ORD_TARGET void load_tile(const F* const* group, const int64_t* size, int64_t rows, const F* end, K* tile) {
  constexpr int W = ORD_BYTES / sizeof(K);
  typedef K V __attribute__((vector_size(ORD_BYTES)));
  V lane;
  for (int i = 0; i < W; ++i) {
    lane[i] = i;
  }
  for (int g = 0; g < kTileWidth<K>; g += W) {
    for (int64_t i = 0; i < rows; i += W) {
      V v[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        const int64_t remaining = size[g + l] - i;
        v[l] = V{} + kMaxKey<K>;
        if (remaining <= 0) {
          continue;
        }
        const F* const from = group[g + l] + i;
        V k;
        if (end - from >= W) {
          __builtin_memcpy(&k, from, sizeof k);
        } else {
          __builtin_memcpy(&k, from, remaining * sizeof(K));
        }
        k ^= (k >> (8 * sizeof(K) - 1)) & kMaxKey<K>;
        v[l] = remaining >= W ? k : lane < static_cast<K>(remaining) ? k : v[l];
      }
      transpose<1, W>(v);
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        __builtin_memcpy(tile + (i + l) * kTileWidth<K> + g, v + l, sizeof(V));
      }
    }
  }
}

}  // namespace ordkernels::host::ORD_ISA
