// The interval score of lower, upper, y [B], and its gradients; rows [begin, end).
#pragma once
#include <cstdint>

#include "cpu/ops/interval_score_args.h"

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
static void forward(const IntervalScoreArgs& a, int64_t begin, int64_t end) {
  const F* __restrict lower = (const F*)a.lower, * __restrict upper = (const F*)a.upper, * __restrict y = (const F*)a.y;
  F* __restrict out = (F*)a.out;
  const F rate = (F)a.rate;
#pragma omp simd
  for (int64_t r = begin; r < end; ++r) {
    out[r] = upper[r] - lower[r] + penalty(lower[r] - y[r], rate) + penalty(y[r] - upper[r], rate);
  }
}

template <class F>
static void backward(const IntervalScoreArgs& a, int64_t begin, int64_t end) {
  const F* __restrict lower = (const F*)a.lower, * __restrict upper = (const F*)a.upper, * __restrict y = (const F*)a.y;
  const F* __restrict g = (const F*)a.g;
  F* __restrict g_lower = (F*)a.g_lower, * __restrict g_upper = (F*)a.g_upper, * __restrict g_y = (F*)a.g_y;
  const F rate = (F)a.rate;
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

void interval_score_forward(const IntervalScoreArgs& a, int64_t begin, int64_t end) {
  a.is_double ? interval::forward<double>(a, begin, end) : interval::forward<float>(a, begin, end);
}

void interval_score_backward(const IntervalScoreArgs& a, int64_t begin, int64_t end) {
  a.is_double ? interval::backward<double>(a, begin, end) : interval::backward<float>(a, begin, end);
}

}  // namespace ORD_ISA
