// predict_x0: the estimate of x0 alone. Included once per instruction set.
#pragma once
#include "cpu/ops/x0_estimate.h"

namespace ORD_ISA {
namespace {

template <class T>
__attribute__((noinline)) void predict_x0_rows(const StepArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  const bool constant = constant_levels(a), stream = a.streaming_stores;
  EstimateCoefficients c = estimate_coefficients(a.prediction, a.t.constant);
  const V limit = V{} + (T)a.clip;
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 3> data(a, tile);
    const Elements<T> x_t = data.input(a.x_t), output = data.input(a.output);
    T* const x0 = data.output(a.x0);
    // A last bit may depend on where its row lies: the end of a row, less than a vector, is compiled apart.
    const bool uniform = constant && a.D % 16 == 0;
    for_each_piece(a, tile, {}, uniform, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (!constant) {
        c = estimate_coefficients(a.prediction, level_of(a.t, p.b, p.k));
      }
      const Estimate<T> estimate(a.prediction, c.c0, c.c1);
      for_each_vector<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const int64_t j = p.at + i;
        store(x0 + j, clip_both(estimate(x_t.at(j, lanes), output.at(j, lanes)), limit), lanes, stream);
      });
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

// dots [rows, 2]: the gradients of c0, c1.
template <class T>
__attribute__((noinline)) void predict_x0_rows_backward(const StepArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  using I = typename Traits<T>::I;
  T* const dots = (T*)a.dots;
  zero_dots<T>(a, dots, 2, begin, end);
  const bool constant = constant_levels(a), stream = a.streaming_stores;
  const bool needs_estimate = dots || a.clip < __builtin_inf();
  EstimateCoefficients c = estimate_coefficients(a.prediction, a.t.constant);
  const V limit = V{} + (T)a.clip;
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 5> data(a, tile);
    const Elements<T> g_x0 = data.input(a.g_x0), x_t = data.input(needs_estimate ? a.x_t : nullptr),
                      output = data.input(needs_estimate ? a.output : nullptr);
    T *const g_x_t = data.output(a.g_x_t), *const g_output = data.output(a.g_output);
    for_each_piece(a, tile, {}, false, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (!constant) {
        c = estimate_coefficients(a.prediction, level_of(a.t, p.b, p.k));
      }
      const Estimate<T> estimate(a.prediction, c.c0, c.c1);
      V by_x{}, by_output{};
      for_each_vector_rolled<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const int64_t j = p.at + i;
        V h = g_x0.p ? g_x0.at(j, lanes) : V{};  // zeros past the end, so the sums need no mask
        if (needs_estimate) {
          const V x = x_t.at(j, lanes), o = output.at(j, lanes), raw = estimate(x, o);
          h = (I)(raw >= -limit) & (I)(raw <= limit) ? h : V{};
          by_x += h * x;
          by_output += h * o;
        }
        if (g_x_t) {
          store(g_x_t + j, estimate.c0 * h, lanes, stream);
        }
        if (g_output) {
          store(g_output + j, estimate.c1 * h, lanes, stream);
        }
      });
      if (dots) {
        T* const to = dots + (p.b * a.K + p.k) * 2;
        to[0] += sum(by_x);
        to[1] += sum(by_output);
      }
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

}  // namespace

void predict_x0(const StepArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? predict_x0_rows<double>(a, begin, end) : predict_x0_rows<float>(a, begin, end);
}
void predict_x0_backward(const StepArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? predict_x0_rows_backward<double>(a, begin, end)
                       : predict_x0_rows_backward<float>(a, begin, end);
}

}  // namespace ORD_ISA
