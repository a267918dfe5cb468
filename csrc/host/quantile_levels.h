// Where a level falls between two order statistics, and the value there: shared by the quantile kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "host/float_keys.h"

namespace ordkernels::host {

constexpr int kLevelPadding = 8;  // arrays of levels are padded to a multiple of this

// Among n sorted values, level q lies at position (n - 1) q: between lo and hi = lo + 1 (lo, where there is no value
// after it), a share t < 1 of the way.
class Positions {
 public:
  Positions(const double* levels, int64_t count);

  void set(int64_t n) {  // n >= 1
    if (n != n_) {
      compute(n);
    }
  }

  static int64_t padded(int64_t count) { return (count + kLevelPadding - 1) / kLevelPadding * kLevelPadding; }

  const int64_t count;
  std::vector<int64_t> ascending;  // [count]: the levels' indices, lowest level first
  std::vector<int64_t> lo, hi;     // [padded(count)]
  std::vector<double> t;           // [padded(count)]

 private:
  void compute(int64_t n);

  std::vector<double> levels_;  // [padded(count)], padded with zeros
  int64_t n_ = 0;
};

// numpy.quantile's rule, which never leaves [a, b]; and where b - a is no number or overflows, the weighted sum, so
// that only the middle of (-inf, inf) is NaN.
inline double interpolate(double a, double b, double t) {
  const double gap = b - a;
  if (!std::isfinite(gap)) [[unlikely]] {
    return a == b || t == 0 ? a : a * (1 - t) + b * t;
  }
  const double up = a + gap * t, down = b - gap * (1 - t);
  return t < 0.5 ? up : down;
}

// The quantiles of many arrays of sorted keys. The order statistics of an array are copied at once, and interpolated
// with those of the next arrays: a vector load waits for narrow stores to its bytes, and with them for all stores
// before, down to the last row's on its way to memory.
template <class F>
class LevelReader {
 public:
  using K = key_of<F>;

  LevelReader(const double* levels, int64_t count);

  // The quantiles of keys[0], keys[stride], ... keys[(n - 1) stride], stride 1, 8 or 16; `out` [count] is complete
  // after the next `finish`.
  void read(const K* keys, int64_t stride, int64_t n, F* out) {
    if (used_ == kSlots) {
      finish();
    }
    at_[used_].set(n);
    out_[used_] = out;
    stride == 1 ? copy<1>(keys) : stride == 8 ? copy<8>(keys) : copy<16>(keys);
    ++used_;
  }

  void finish();

 private:
  static constexpr int kSlots = 16;

  template <int kStride>
  void copy(const K* keys) {
    const int64_t *const lo = at_[used_].lo.data(), *const hi = at_[used_].hi.data();
    K *const below = below_.data() + used_ * padded_, *const above = above_.data() + used_ * padded_;
    for (int64_t l = 0; l < count_; ++l) {
      below[l] = keys[lo[l] * kStride];
      above[l] = keys[hi[l] * kStride];
    }
  }

  const int64_t count_, padded_;
  std::vector<Positions> at_;     // [kSlots]
  std::vector<K> below_, above_;  // [kSlots, padded_]
  F* out_[kSlots];
  int used_ = 0;
};

// The number of sorted[0, n) below key, without branches on the data.
template <class K>
inline int64_t lower_bound(const K* sorted, int64_t n, K key) {
  const K* base = sorted;
  while (n > 1) {
    const int64_t half = n / 2;
    base = base[half - 1] < key ? base + half : base;
    n -= half;
  }
  return base - sorted + (n == 1 && *base < key);
}

}  // namespace ordkernels::host
