// Where levels fall among n values, and the values there: the loops of quantile_levels.cpp for one instruction set (see
// per_isa.h).

namespace ordkernels::host::ORD_ISA {

// Copies the first n < kLevelPadding numbers. Copies of fixed sizes are moves; of an unknown size, a slow start.
template <class F>
ORD_TARGET inline __attribute__((always_inline)) void copy_tail(const F* from, int64_t n, F* to) {
  if (n & 4) {
    __builtin_memcpy(to, from, 4 * sizeof(F));
    to += 4;
    from += 4;
  }
  if (n & 2) {
    __builtin_memcpy(to, from, 2 * sizeof(F));
    to += 2;
    from += 2;
  }
  if (n & 1) {
    *to = *from;
  }
}

template <class F, class K>
ORD_TARGET bool interpolate_levels(const K* __restrict below, const K* __restrict above, const double* __restrict t,
                                   int64_t count, F* __restrict out) {
  int non_finite = 0;
  for (int64_t first = 0; first < count; first += kLevelPadding) {
    F value[kLevelPadding];
#pragma omp simd reduction(| : non_finite)
    for (int l = 0; l < kLevelPadding; ++l) {
      const K a = below[first + l] ^ ((below[first + l] >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
      const K b = above[first + l] ^ ((above[first + l] >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
      const double x = __builtin_bit_cast(F, a), y = __builtin_bit_cast(F, b), gap = y - x, share = t[first + l];
      const double up = x + gap * share, down = y - gap * (1 - share);
      value[l] = static_cast<F>(share < 0.5 ? up : down);
      non_finite |= !(__builtin_fabs(gap) <= __DBL_MAX__);
    }
    if (count - first >= kLevelPadding) {
      __builtin_memcpy(out + first, value, kLevelPadding * sizeof(F));
    } else {
      copy_tail(value, count - first, out + first);
    }
  }
  return !non_finite;
}

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
