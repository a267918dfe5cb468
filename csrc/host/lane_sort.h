// Many short sorts at once. Included once per instruction set by lanes.h, with ORD_ISA naming the namespace, ORD_TARGET
// the function attribute and ORD_BYTES the width of its vectors; hence no include guard, and no std headers, whose
// inline functions could leak wide instructions into the rest of the module.
//
// A tile holds kWide groups side by side, row-major [n, kWide]: group g is column g, padded below with the largest
// key. A sorting network compares whole rows, so every comparison is one vector minimum and one vector maximum.

namespace ordkernels::host::ORD_ISA {

template <class K>
constexpr int kWide = ORD_BYTES / sizeof(K) > 8 ? ORD_BYTES / sizeof(K) : 8;

// Rows x and y, elementwise: the smaller keys to x, the larger to y.
template <class K>
ORD_TARGET inline __attribute__((always_inline)) void exchange_rows(K* __restrict x, K* __restrict y) {
#pragma omp simd
  for (int g = 0; g < kWide<K>; ++g) {
    const K a = x[g], b = y[g];
    x[g] = a < b ? a : b;
    y[g] = a < b ? b : a;
  }
}

// Sorts each column of tile [n, kWide] downwards: Batcher's merge exchange for any n (Knuth, The Art of Computer
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
          exchange_rows(tile + j * kWide<K>, tile + (j + d) * kWide<K>);
        }
      }
      if (q == p) {
        break;
      }
    }
  }
}

#include "cpu/simd/transpose.h"

// group[g] [size[g]] into column g of a tile, as keys (radix.h), padded below; a vector of each at a time. `end`: of
// the array that they lie in. Writes up to 16 rows past the last.
template <class F, class K>
ORD_TARGET void load_tile(const F* const* group, const int64_t* size, int64_t rows, const F* end, K* tile) {
  constexpr int W = ORD_BYTES / sizeof(K);
  typedef K V __attribute__((vector_size(ORD_BYTES)));
  V place;
  for (int i = 0; i < W; ++i) {
    place[i] = i;
  }
  for (int g = 0; g < kWide<K>; g += W) {
    for (int64_t i = 0; i < rows; i += W) {
      V v[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        const int64_t left = size[g + l] - i;
        v[l] = V{} + kMaxKey<K>;
        if (left <= 0) {
          continue;
        }
        const F* const from = group[g + l] + i;
        V k;
        if (end - from >= W) {
          __builtin_memcpy(&k, from, sizeof k);
        } else {
          __builtin_memcpy(&k, from, left * sizeof(K));
        }
        k ^= (k >> (8 * sizeof(K) - 1)) & kMaxKey<K>;
        v[l] = left >= W ? k : place < static_cast<K>(left) ? k : v[l];
      }
      transpose<1, W>(v);
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        __builtin_memcpy(tile + (i + l) * kWide<K> + g, v + l, sizeof(V));
      }
    }
  }
}

// out[l] between the keys below[l] and above[l], a share t[l] of the way, as `interpolate` (quantiles.h) for finite
// gaps; false if a gap was not finite. below, above and t are padded to a multiple of kLanes.
template <class F, class K>
ORD_TARGET bool interpolate_levels(const K* __restrict below, const K* __restrict above, const double* __restrict t,
                                   int64_t count, F* __restrict out) {
  int wild = 0;
  for (int64_t first = 0; first < count; first += kLanes) {
    F value[kLanes];
#pragma omp simd reduction(| : wild)
    for (int l = 0; l < kLanes; ++l) {
      const K a = below[first + l] ^ ((below[first + l] >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
      const K b = above[first + l] ^ ((above[first + l] >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
      const double x = __builtin_bit_cast(F, a), y = __builtin_bit_cast(F, b), gap = y - x, share = t[first + l];
      const double up = x + gap * share, down = y - gap * (1 - share);
      value[l] = static_cast<F>(share < 0.5 ? up : down);
      wild |= !(__builtin_fabs(gap) <= __DBL_MAX__);
    }
    const int64_t left = count - first;  // copies of fixed sizes are moves; of an unknown size, a slow start
    F* to = out + first;
    const F* from = value;
    if (left >= kLanes) {
      __builtin_memcpy(to, from, kLanes * sizeof(F));
      continue;
    }
    if (left & 4) {
      __builtin_memcpy(to, from, 4 * sizeof(F)), to += 4, from += 4;
    }
    if (left & 2) {
      __builtin_memcpy(to, from, 2 * sizeof(F)), to += 2, from += 2;
    }
    if (left & 1) {
      *to = *from;
    }
  }
  return !wild;
}

// The position (n - 1) level of each level among n values: lo + t, and hi the value after lo, if there is one.
ORD_TARGET inline void set_positions(int64_t n, const double* levels, int64_t count, int64_t* lo, int64_t* hi,
                                     double* t) {
  const double last = static_cast<double>(n - 1);
  if (n <= __INT_MAX__) {  // vectors convert to 32 bits only
    const int32_t end = static_cast<int32_t>(n - 1);
#pragma omp simd
    for (int64_t l = 0; l < count; ++l) {
      const double position = last * levels[l];
      const int32_t whole = static_cast<int32_t>(position);
      t[l] = position - whole;
      lo[l] = whole;
      hi[l] = whole + (whole < end);
    }
    return;
  }
  for (int64_t l = 0; l < count; ++l) {
    const double position = last * levels[l];
    lo[l] = static_cast<int64_t>(position);
    t[l] = position - static_cast<double>(lo[l]);
    hi[l] = lo[l] + (lo[l] < n - 1);
  }
}

}  // namespace ordkernels::host::ORD_ISA
