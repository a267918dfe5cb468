// Eight short sorts at once. Included once per instruction set by quantiles.cpp, with ORD_ISA naming the namespace and
// ORD_TARGET the function attribute; hence no include guard, and no std headers, whose inline functions could leak
// wide instructions into the rest of the module.
//
// A tile holds kLanes groups side by side, row-major [n, kLanes]: group g is column g, padded below with the largest
// key. A sorting network compares whole rows, so every comparison is one vector minimum and one vector maximum.

namespace ordkernels::host::ORD_ISA {

// Rows x and y, elementwise: the smaller keys to x, the larger to y.
template <class K>
ORD_TARGET inline __attribute__((always_inline)) void exchange_rows(K* __restrict x, K* __restrict y) {
#pragma omp simd
  for (int g = 0; g < kLanes; ++g) {
    const K a = x[g], b = y[g];
    x[g] = a < b ? a : b;
    y[g] = a < b ? b : a;
  }
}

// Sorts each column of tile [n, kLanes] downwards: Batcher's merge exchange for any n (Knuth, The Art of Computer
// Programming 3, 5.2.2, algorithm M), n log^2 n / 4 row exchanges.
template <class K>
ORD_TARGET void sort_columns(K* tile, int64_t n) {
  if (n < 2) return;
  int64_t top = 1;
  while (2 * top < n) top *= 2;
  for (int64_t p = top; p > 0; p /= 2) {
    for (int64_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
      for (int64_t i = r; i < n - d; i += 2 * p) {
        const int64_t end = i + p < n - d ? i + p : n - d;
        for (int64_t j = i; j < end; ++j) exchange_rows(tile + j * kLanes, tile + (j + d) * kLanes);
      }
      if (q == p) break;
    }
  }
}

// values [n] into one column of a tile of `rows` rows, as keys (radix.h), padded below.
template <class F, class K>
ORD_TARGET void load_column(const F* __restrict values, int64_t n, int64_t rows, K* __restrict column) {
  for (int64_t i = 0; i < n; ++i) {
    K k;
    __builtin_memcpy(&k, values + i, sizeof k);
    column[i * kLanes] = k ^ ((k >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
  }
  for (int64_t i = n; i < rows; ++i) column[i * kLanes] = kMaxKey<K>;
}

// out[l] between keys[lo[l] * stride] and keys[hi[l] * stride], a share t[l] of the way, as `interpolate` (quantiles.h)
// for finite gaps; false if a gap was not finite. lo, hi and t are padded to a multiple of kLanes.
template <class F, class K>
ORD_TARGET bool read_levels(const K* keys, int64_t stride, const int64_t* lo, const int64_t* hi, const double* t,
                            int64_t count, F* out) {
  constexpr int64_t kBlock = 8 * kLanes;
  K below[kBlock], above[kBlock];
  F value[kBlock];
  int wild = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t end = count - first < kBlock ? count - first : kBlock;
    const int64_t padded = (end + kLanes - 1) / kLanes * kLanes;
    // All loads before all arithmetic: a vector load straight after the narrow stores it covers would wait for them.
    for (int64_t l = 0; l < padded; ++l) {
      below[l] = keys[lo[first + l] * stride];
      above[l] = keys[hi[first + l] * stride];
    }
#pragma omp simd reduction(| : wild)
    for (int64_t l = 0; l < padded; ++l) {
      const K a = below[l] ^ ((below[l] >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
      const K b = above[l] ^ ((above[l] >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
      const double x = __builtin_bit_cast(F, a), y = __builtin_bit_cast(F, b), gap = y - x, share = t[first + l];
      const double up = x + gap * share, down = y - gap * (1 - share);
      value[l] = static_cast<F>(share < 0.5 ? up : down);
      wild |= !(__builtin_fabs(gap) <= __DBL_MAX__);
    }
    int64_t done = 0;  // copies of fixed sizes are moves; of an unknown size, a slow start
    for (; done + kLanes <= end; done += kLanes) __builtin_memcpy(out + first + done, value + done, kLanes * sizeof(F));
    if (end & 4) __builtin_memcpy(out + first + done, value + done, 4 * sizeof(F)), done += 4;
    if (end & 2) __builtin_memcpy(out + first + done, value + done, 2 * sizeof(F)), done += 2;
    if (end & 1) out[first + done] = value[done];
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
