// The interval score of lower, upper, y [B], and its gradients; rows [begin, end).
#pragma once
#include <cstdint>

namespace ORD_ISA {
namespace interval {

// The slope of rate max(d, 0): half of each side's at 0; NaN stays.
template <class F>
static inline F slope(F d, F rate) {
  return d > 0 ? rate : d < 0 ? 0 : d + rate / 2;
}

// Not d times the slope: an infinite bound times 0 is NaN.
template <class F>
static inline F penalty(F d, F rate) {
  return d < 0 ? 0 : d * rate;
}

template <class F>
static void forward(const F* __restrict lower, const F* __restrict upper, const F* __restrict y, F* __restrict out,
                    F rate, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t r = begin; r < end; ++r) {
    out[r] = upper[r] - lower[r] + penalty(lower[r] - y[r], rate) + penalty(y[r] - upper[r], rate);
  }
}

// g_lower, g_upper, g_y: null where that gradient is not asked for.
template <class F>
static void backward(const F* __restrict lower, const F* __restrict upper, const F* __restrict y, const F* __restrict g,
                     F* __restrict g_lower, F* __restrict g_upper, F* __restrict g_y, F rate, int64_t begin,
                     int64_t end) {
#pragma omp simd
  for (int64_t r = begin; r < end; ++r) {
    const F below = slope(lower[r] - y[r], rate), above = slope(y[r] - upper[r], rate);
    if (g_lower) {
      g_lower[r] = (below - 1) * g[r];
    }
    if (g_upper) {
      g_upper[r] = (1 - above) * g[r];
    }
    if (g_y) {
      g_y[r] = (above - below) * g[r];
    }
  }
}

}  // namespace interval

void interval_score_forward(bool is_double, const void* lower, const void* upper, const void* y, void* out,
                            double level, int64_t begin, int64_t end) {
  const double rate = 2 / (1 - level);
  if (is_double) {
    interval::forward((const double*)lower, (const double*)upper, (const double*)y, (double*)out, rate, begin, end);
  } else {
    interval::forward((const float*)lower, (const float*)upper, (const float*)y, (float*)out, (float)rate, begin, end);
  }
}

void interval_score_backward(bool is_double, const void* lower, const void* upper, const void* y, const void* g,
                             void* g_lower, void* g_upper, void* g_y, double level, int64_t begin, int64_t end) {
  const double rate = 2 / (1 - level);
  if (is_double) {
    interval::backward((const double*)lower, (const double*)upper, (const double*)y, (const double*)g, (double*)g_lower,
                       (double*)g_upper, (double*)g_y, rate, begin, end);
  } else {
    interval::backward((const float*)lower, (const float*)upper, (const float*)y, (const float*)g, (float*)g_lower,
                       (float*)g_upper, (float*)g_y, (float)rate, begin, end);
  }
}

}  // namespace ORD_ISA
