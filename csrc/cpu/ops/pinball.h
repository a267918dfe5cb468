// The pinball loss of quantiles, q [B, L], y [B], levels [B, L]; rows [begin, end).
#pragma once
#include "cpu/ops/pinball_args.h"

namespace ORD_ISA {
namespace pinball {

template <class F>
static void forward(const PinballArgs& a, int64_t begin, int64_t end) {
  const int64_t L = a.L;
  const F* __restrict q = (const F*)a.q, * __restrict y = (const F*)a.y, * __restrict levels = (const F*)a.levels;
  F* __restrict out = (F*)a.out;
  for (int64_t r = begin; r < end; ++r) {
    const F t = y[r];
    const F* __restrict level = levels + r * a.level_step;
#pragma omp simd
    for (int64_t l = 0; l < L; ++l) {
      const F d = t - q[r * L + l];
      out[r * L + l] = (d < 0 ? level[l] - 1 : level[l]) * d;
    }
  }
}

template <class F>
static void backward(const PinballArgs& a, int64_t begin, int64_t end) {
  const int64_t L = a.L;
  const F* __restrict q = (const F*)a.q, * __restrict y = (const F*)a.y, * __restrict levels = (const F*)a.levels;
  const F* __restrict g = (const F*)a.g;
  F* __restrict g_q = (F*)a.g_q, * __restrict g_y = (F*)a.g_y;
  for (int64_t r = begin; r < end; ++r) {
    const F t = y[r];
    const F* __restrict level = levels + r * a.level_step;
    F sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < L; ++l) {
      const F d = t - q[r * L + l];
      const F below = d < 0 ? level[l] - 1 : d == 0 ? level[l] - (F)0.5 : d;  // NaN stays
      const F slope = (d > 0 ? level[l] : below) * (g ? g[r * L + l] : (F)0);
      if (g_q) {
        g_q[r * L + l] = -slope;
      }
      sum += slope;
    }
    if (g_y) {
      g_y[r] = sum;
    }
  }
}

}  // namespace pinball

void pinball_forward(const PinballArgs& a, int64_t begin, int64_t end) {
  a.is_double ? pinball::forward<double>(a, begin, end) : pinball::forward<float>(a, begin, end);
}

void pinball_backward(const PinballArgs& a, int64_t begin, int64_t end) {
  a.is_double ? pinball::backward<double>(a, begin, end) : pinball::backward<float>(a, begin, end);
}

}  // namespace ORD_ISA
