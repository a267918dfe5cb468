// Scores that are sums over rows, in one pass: errors, moments, and the coverage of intervals. No result depends on the
// number of threads.
#pragma once

#include <cstdint>
#include <span>

namespace ordkernels::host {

// value 2^exponent: a sum that neither overflows nor loses terms that vanish. The exponent is 0 unless they could.
struct ScaledSum {
  double value = 0;
  int exponent = 0;
};

struct Errors {
  ScaledSum absolute, squared;  // of |y - p| and of (y - p)^2
  int64_t within = 0;           // rows with |y - p| <= theta
};

// y, p [N]
template <class F>
Errors errors(std::span<const F> y, const F* p, double theta, int threads);

// Of y and p less their first rows, which keeps the sums of a constant column at exactly 0, times 2^-exponent each: the
// exponents are 0 unless squares could overflow or vanish.
struct Moments {
  double n = 0;
  double v[5] = {};  // means; sums of squares and products about them: yy, pp, yp
  int exponents[2] = {};
};

// y, p [N]
template <class F>
Moments moments(std::span<const F> y, const F* p, int threads);

struct Coverage {
  int64_t inside = 0;    // rows with lower <= y <= upper
  ScaledSum width;       // of upper - lower, where no row is crossed
  int64_t crossed = -1;  // the first row with lower > upper, or -1
};

// lower, upper, y [N]
template <class F>
Coverage coverage(std::span<const F> lower, const F* upper, const F* y, int threads);

}  // namespace ordkernels::host
