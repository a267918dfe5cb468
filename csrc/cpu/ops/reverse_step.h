// reverse_step: one denoising step and the estimate of x0 that it goes through. Included once per instruction set.
//
// Every kind of prediction and process is one form with six coefficients per row, computed in fp64:
//   x0 = clip(c0 x_t + c1 output),  x_s = d0 x0 + d1 x_t + d2 output + sigma noise.
#pragma once
#include "cpu/ops/x0_estimate.h"

namespace ORD_ISA {
namespace {

struct StepCoefficients {
  double c0, c1, d0, d1, d2, sigma;
};

static StepCoefficients step_coefficients(const StepArgs& a, double t, double s) {
  const EstimateCoefficients c = estimate_coefficients(a.prediction, t);
  if (a.prediction == diffusion::kFlow) {
    return {c.c0, c.c1, 0, 1, s - t, 0};
  }
  if (s == 1 && t == t) {  // x_s is the estimate of x0, also where t = 1 and there is no noise to tell epsilon by
    return {c.c0, c.c1, 1, 0, 0, 0};
  }
  const double root = __builtin_sqrt(t), n = __builtin_sqrt(1 - t);
  double e0, e1, e2 = 0;  // eps = e0 x_t + e1 output + e2 x0
  if (a.use_clipped_output) {
    e0 = 1 / n;
    e1 = 0;
    e2 = -root / n;
  } else if (a.prediction == diffusion::kEps) {
    e0 = 0;
    e1 = 1;
  } else if (a.prediction == diffusion::kX0) {
    e0 = 1 / n;
    e1 = -root / n;
  } else {
    e0 = n;
    e1 = root;
  }
  const double variance = a.eta == 0 ? 0 : a.eta * a.eta * ((1 - s) / (1 - t)) * (1 - t / s);
  const double rest = 1 - s - variance, q = __builtin_sqrt(rest < 0 ? 0 : rest);
  return {c.c0, c.c1, __builtin_sqrt(s) + q * e2, q * e0, q * e1, __builtin_sqrt(variance)};
}

ORD_INLINE StepCoefficients step_coefficients_of(const StepArgs& a, int64_t b, int64_t k) {
  return step_coefficients(a, level_of(a.t, b, k), level_of(a.s, b, k));
}

// The inputs and outputs of a tile.
template <class T>
struct StepTile {
  Elements<T> x_t, output;
  T *x_s, *x0;
};

template <class T, bool kNoise, bool kStream>
ORD_INLINE void step_piece(const StepTile<T>& tile, const Piece<T>& p, const StepCoefficients& c, int prediction,
                           typename Traits<T>::V limit) {
  using V = typename Traits<T>::V;
  const Estimate<T> estimate(prediction, c.c0, c.c1);
  const V d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, d2 = V{} + (T)c.d2, sigma = V{} + (T)c.sigma;
  for_each_vector<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const int64_t j = p.at + i;
    const V x = tile.x_t.at(j, lanes), o = tile.output.at(j, lanes);
    const V x0 = clip_both(estimate(x, o), limit);
    store(tile.x0 + j, x0, lanes, kStream);
    V y = d0 * x0 + d1 * x + d2 * o;
    if constexpr (kNoise) {
      y += sigma * p.noise.at(i, lanes);
    }
    store(tile.x_s + j, y, lanes, kStream);
  });
}

template <class T, bool kStream>
__attribute__((noinline)) void reverse_step_rows(const StepArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  const bool constant = constant_levels(a);
  StepCoefficients c = constant ? step_coefficients(a, a.t.constant, a.s.constant) : StepCoefficients{};
  const V limit = V{} + (T)a.clip;
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 5> data(a, tile);
    const StepTile<T> rows{data.input(a.x_t), data.input(a.output), data.output(a.x_s), data.output(a.x0)};
    // A last bit may depend on where its row lies: the end of a row, less than a vector, is compiled apart.
    const bool uniform = constant && a.D % 16 == 0;
    for_each_piece(a, tile, data.input(a.noise), uniform, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (!constant) {
        c = step_coefficients_of(a, p.b, p.k);
      }
      p.noise.p ? step_piece<T, true, kStream>(rows, p, c, a.prediction, limit)
                : step_piece<T, false, kStream>(rows, p, c, a.prediction, limit);
    });
    data.write_back();
  });
  if (kStream) {
    __builtin_ia32_sfence();
  }
}

// dots [rows, 6]: the gradients of the coefficients.
template <class T>
__attribute__((noinline)) void reverse_step_rows_backward(const StepArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  using I = typename Traits<T>::I;
  T* const dots = (T*)a.dots;
  zero_dots<T>(a, dots, 6, begin, end);
  const bool constant = constant_levels(a), stream = a.streaming_stores;
  const bool needs_estimate = dots || a.clip < __builtin_inf();
  StepCoefficients c = constant ? step_coefficients(a, a.t.constant, a.s.constant) : StepCoefficients{};
  const V limit = V{} + (T)a.clip;
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 8> data(a, tile);
    const Elements<T> g_x_s = data.input(a.g_x_s), g_x0 = data.input(a.g_x0),
                      x_t = data.input(needs_estimate ? a.x_t : nullptr),
                      output = data.input(needs_estimate ? a.output : nullptr),
                      noise = data.input(dots ? a.noise : nullptr);
    T *const g_x_t = data.output(a.g_x_t), *const g_output = data.output(a.g_output),
             *const g_noise = data.output(a.g_noise);
    for_each_piece(a, tile, noise, false, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (!constant) {
        c = step_coefficients_of(a, p.b, p.k);
      }
      const Estimate<T> estimate(a.prediction, c.c0, c.c1);
      const V d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, d2 = V{} + (T)c.d2, sigma = V{} + (T)c.sigma;
      V sums[6] = {};
      for_each_vector_rolled<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const int64_t j = p.at + i;
        const V g = g_x_s.p ? g_x_s.at(j, lanes) : V{};  // zeros past the end, so the sums need no mask
        V h = d0 * g;                                    // the gradient of the estimate
        if (g_x0.p) {
          h += g_x0.at(j, lanes);
        }
        if (needs_estimate) {
          const V x = x_t.at(j, lanes), o = output.at(j, lanes), raw = estimate(x, o);
          h = (I)(raw >= -limit) & (I)(raw <= limit) ? h : V{};
          if (dots) {
            sums[0] += h * x;
            sums[1] += h * o;
            sums[2] += g * clip_both(raw, limit);
            sums[3] += g * x;
            sums[4] += g * o;
            if (p.noise.p) {
              sums[5] += g * p.noise.at(i, lanes);
            }
          }
        }
        if (g_x_t) {
          store(g_x_t + j, estimate.c0 * h + d1 * g, lanes, stream);
        }
        if (g_output) {
          store(g_output + j, estimate.c1 * h + d2 * g, lanes, stream);
        }
        if (g_noise) {
          store(g_noise + j, sigma * g, lanes, stream);
        }
      });
      for (int i = 0; dots && i < 6; ++i) {
        dots[(p.b * a.K + p.k) * 6 + i] += sum(sums[i]);
      }
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

}  // namespace

void reverse_step(const StepArgs& a, int64_t begin, int64_t end) {
  if (a.type == DType::f64) {
    return reverse_step_rows<double, false>(a, begin, end);
  }
  a.streaming_stores ? reverse_step_rows<float, true>(a, begin, end) : reverse_step_rows<float, false>(a, begin, end);
}
void reverse_step_backward(const StepArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? reverse_step_rows_backward<double>(a, begin, end)
                       : reverse_step_rows_backward<float>(a, begin, end);
}

}  // namespace ORD_ISA
