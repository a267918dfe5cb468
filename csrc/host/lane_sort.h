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
  bool finite = true;
  for (int64_t l = 0; l < count; l += kLanes) {
    K below[kLanes], above[kLanes];
    F a[kLanes], b[kLanes], value[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      below[i] = keys[lo[l + i] * stride];
      above[i] = keys[hi[l + i] * stride];
    }
    for (int i = 0; i < kLanes; ++i) {
      below[i] ^= (below[i] >> (8 * sizeof(K) - 1)) & kMaxKey<K>;
      above[i] ^= (above[i] >> (8 * sizeof(K) - 1)) & kMaxKey<K>;
    }
    __builtin_memcpy(a, below, sizeof a);
    __builtin_memcpy(b, above, sizeof b);
    int wild = 0;
#pragma omp simd reduction(| : wild)
    for (int i = 0; i < kLanes; ++i) {
      const double x = a[i], y = b[i], gap = y - x, share = t[l + i];
      const double up = x + gap * share, down = y - gap * (1 - share);
      value[i] = static_cast<F>(share < 0.5 ? up : down);
      wild |= !(__builtin_fabs(gap) <= __DBL_MAX__);
    }
    finite &= !wild;
    const int64_t end = count - l < kLanes ? count - l : kLanes;
    if (end == kLanes) {
      __builtin_memcpy(out + l, value, sizeof value);
    } else {
      for (int64_t i = 0; i < end; ++i) out[l + i] = value[i];
    }
  }
  return finite;
}

}  // namespace ordkernels::host::ORD_ISA
