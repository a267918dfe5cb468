// Scores that are sums over rows, in one pass: errors, moments, and the coverage of intervals. No result depends on the
// number of threads.
#pragma once

#include <cstdint>
#include <span>

namespace ordkernels::host {

struct Errors {
  double sums[2] = {};  // of |y - p| and of (y - p)^2
  int64_t within = 0;   // rows with |y - p| <= theta
};

// y, p [N]
template <class F>
Errors errors(std::span<const F> y, const F* p, double theta, int threads);

struct Moments {
  double n = 0;
  double v[5] = {};  // means of y and p; sums of squares and products about them: yy, pp, yp
};

// y, p [N]
template <class F>
Moments moments(std::span<const F> y, const F* p, int threads);

struct Coverage {
  int64_t inside = 0;    // rows with lower <= y <= upper
  double width = 0;      // sum of upper - lower
  int64_t crossed = -1;  // the first row with lower > upper, or -1
};

// lower, upper, y [N]
template <class F>
Coverage coverage(std::span<const F> lower, const F* upper, const F* y, int threads);

}  // namespace ordkernels::host
