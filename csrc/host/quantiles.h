// Where a level falls between two order statistics, and the value there: shared by the quantile kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "host/lanes.h"
#include "host/radix.h"

namespace ordkernels::host {

// For n sorted values, level q lies at position (n - 1) q: between lo and lo + 1, a share t of the way (t < 1). The
// arrays are padded with zeros to whole vectors.
class Positions {
 public:
  Positions(const double* given, int64_t count)
      : count(count), rising(count), lo(padded(count)), hi(padded(count)), t(padded(count)), levels(padded(count)) {
    std::copy_n(given, count, levels.begin());
    std::iota(rising.begin(), rising.end(), int64_t(0));
    std::sort(rising.begin(), rising.end(), [&](int64_t a, int64_t b) { return given[a] < given[b]; });
  }

  void set(int64_t n) {  // n >= 1
    if (n == values) {
      return;
    }
    values = n;
    set_positions(n, levels.data(), padded(count), lo.data(), hi.data(), t.data());
  }

  static int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

  const int64_t count;
  std::vector<int64_t> rising;  // the levels' indices, lowest level first
  std::vector<int64_t> lo, hi;
  std::vector<double> t;

 private:
  std::vector<double> levels;
  int64_t values = 0;
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

// The quantiles of many arrays of sorted keys. What is asked of an array is copied at once, and computed with that of
// the next ones: a vector load waits for narrow stores to its bytes, and with them for all stores before, down to the
// last row's on its way to memory.
template <class F>
class LevelReader {
 public:
  using K = key_of<F>;

  LevelReader(const double* levels, int64_t count)
      : count_(count),
        padded_(Positions::padded(count)),
        at_(kSlots, Positions(levels, count)),
        below_(kSlots * padded_),
        above_(kSlots * padded_) {}

  // Those of keys[0], keys[stride], ... keys[(n - 1) stride], to out [count] at the latest when `finish` is called;
  // stride 1, 8 or 16.
  void read(const K* keys, int64_t stride, int64_t n, F* out) {
    if (used_ == kSlots) {
      finish();
    }
    at_[used_].set(n);
    out_[used_] = out;
    stride == 1 ? copy<1>(keys) : stride == 8 ? copy<8>(keys) : copy<16>(keys);
    ++used_;
  }

  void finish() {
    for (int i = 0; i < used_; ++i) {
      const K *const below = below_.data() + i * padded_, *const above = above_.data() + i * padded_;
      const double* const t = at_[i].t.data();
      if (interpolate_levels(below, above, t, count_, out_[i])) {
        continue;
      }
      for (int64_t l = 0; l < count_; ++l) {
        out_[i][l] = static_cast<F>(interpolate(from_key<F>(below[l]), from_key<F>(above[l]), t[l]));
      }
    }
    used_ = 0;
  }

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
  std::vector<Positions> at_;
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
