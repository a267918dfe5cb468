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
    if (n == values) return;
    values = n;
    set_positions(n, levels.data(), padded(count), lo.data(), hi.data(), t.data());
  }

  const int64_t count;
  std::vector<int64_t> rising;  // the levels' indices, lowest level first
  std::vector<int64_t> lo, hi;
  std::vector<double> t;

 private:
  static int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

  std::vector<double> levels;
  int64_t values = 0;
};

// numpy.quantile's rule, which never leaves [a, b]; and where b - a is no number or overflows, the weighted sum, so
// that only the middle of (-inf, inf) is NaN.
inline double interpolate(double a, double b, double t) {
  const double gap = b - a;
  if (!std::isfinite(gap)) [[unlikely]] return a == b || t == 0 ? a : a * (1 - t) + b * t;
  const double up = a + gap * t, down = b - gap * (1 - t);
  return t < 0.5 ? up : down;
}

// The quantiles of sorted keys, `stride` apart.
template <class F>
inline void read_quantiles(const key_of<F>* keys, int64_t stride, const Positions& at, F* out) {
  if (read_levels(keys, stride, at.lo.data(), at.hi.data(), at.t.data(), at.count, out)) return;
  for (int64_t l = 0; l < at.count; ++l) {
    const double a = from_key<F>(keys[at.lo[l] * stride]), b = from_key<F>(keys[at.hi[l] * stride]);
    out[l] = static_cast<F>(interpolate(a, b, at.t[l]));
  }
}

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
