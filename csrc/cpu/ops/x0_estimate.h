// The estimate of x0 that a denoiser's output stands for: x0 = clip(c0 x_t + c1 output), for every kind of prediction.
#pragma once
#include "cpu/ops/diffusion_rows.h"

namespace ORD_ISA {
namespace {

using diffusion::StepArgs;

struct EstimateCoefficients {
  double c0, c1;
};

static EstimateCoefficients estimate_coefficients(int prediction, double t) {
  const double a = __builtin_sqrt(t), n = __builtin_sqrt(1 - t);
  switch (prediction) {
    case diffusion::kFlow: return {1, -t};
    case diffusion::kEps: return {1 / a, -n / a};
    case diffusion::kX0: return {0, 1};
    default: return {a, -n};
  }
}

template <class V>
ORD_INLINE V clip_both(V x, V c) {  // NaN goes through
  const V low = x < -c ? -c : x;
  return low > c ? c : low;
}

// The unclipped estimate of vectors of x_t and the output.
template <class T>
struct Estimate {
  using V = typename Traits<T>::V;
  using I = typename Traits<T>::I;
  const V c0, c1;
  const I use_x;  // all bits, or none: 0 x would make NaN of an infinite x

  Estimate(int prediction, double c0_, double c1_)
      : c0(V{} + (T)c0_), c1(V{} + (T)c1_), use_x(I{} - (prediction != diffusion::kX0)) {}

  inline __attribute__((always_inline)) V operator()(V x, V output) const {
    return c0 * (V)((I)x & use_x) + c1 * output;
  }
};

}  // namespace
}  // namespace ORD_ISA
