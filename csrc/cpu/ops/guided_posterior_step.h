// The combination of three guided estimates of x0 and one step of the posterior. Included once per instruction set.
//
//   f = f_un + gamma_cp (f_cp - f_un) + gamma_tf (f_tf - f_un),  x_s = d0 f + d1 x_t + sigma noise
// with three coefficients per row, computed in fp64. A branch whose gamma is 0 is not read, nor is noise where sigma is
// 0.
#pragma once
#include "cpu/ops/diffusion_rows.h"

namespace ORD_ISA {
namespace {

using diffusion::GuidedArgs;

struct PosteriorCoefficients {
  double d0, d1, sigma;
};

static PosteriorCoefficients posterior_coefficients(double t, double s, bool beta_variance) {
  if (s == 1 && t == t) {  // x_s is the estimate of x0, also where t = 1
    return {1, 0, 0};
  }
  const double beta = (s - t) / s;  // 1 - t / s, of a step from s to t
  const double left = (1 - s) / (1 - t);
  return {__builtin_sqrt(s) * (beta / (1 - t)), __builtin_sqrt(t / s) * left,
          __builtin_sqrt(beta_variance ? beta : beta * left)};
}
ORD_INLINE PosteriorCoefficients posterior_coefficients_of(const GuidedArgs& a, int64_t b, int64_t k) {
  return posterior_coefficients(level_of(a.t, b, k), level_of(a.s, b, k), a.beta_variance);
}

// The combined estimate.
template <class T>
struct Branches {
  using V = typename Traits<T>::V;
  const Elements<T> un, cp, tf;  // null: gamma is 0
  const V gamma_cp, gamma_tf;

  template <class Data>
  Branches(const GuidedArgs& a, Data& data)
      : un(data.input(a.f_un)),
        cp(data.input(a.gamma_cp != 0 ? a.f_cp : nullptr)),
        tf(data.input(a.gamma_tf != 0 ? a.f_tf : nullptr)),
        gamma_cp(V{} + (T)a.gamma_cp),
        gamma_tf(V{} + (T)a.gamma_tf) {}

  inline __attribute__((always_inline)) V at(int64_t j, int lanes) const {
    const V u = un.at(j, lanes);
    V f = u;
    if (cp.p) {
      f += gamma_cp * (cp.at(j, lanes) - u);
    }
    if (tf.p) {
      f += gamma_tf * (tf.at(j, lanes) - u);
    }
    return f;
  }
};

template <class T>
__attribute__((noinline)) void guided_rows(const GuidedArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  const bool constant = constant_levels(a), stream = a.streaming_stores;
  PosteriorCoefficients c = posterior_coefficients_of(a, begin, 0);
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 7> data(a, tile);
    const Branches<T> branches(a, data);
    const Elements<T> x_t = data.input(a.x_t);
    T *const x_s = data.output(a.x_s), *const f_to = data.output(a.f);
    // A last bit may depend on where its row lies: the end of a row, less than a vector, is compiled apart.
    const bool uniform = constant && a.D % 16 == 0;
    for_each_piece(a, tile, data.input(a.noise), uniform, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (!constant) {
        c = posterior_coefficients_of(a, p.b, p.k);
      }
      const V d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, sigma = V{} + (T)c.sigma;
      const bool noisy = p.noise.p && c.sigma != 0;
      for_each_vector<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const int64_t j = p.at + i;
        const V f = branches.at(j, lanes);
        store(f_to + j, f, lanes, stream);
        V y = d0 * f + d1 * x_t.at(j, lanes);
        if (noisy) {
          y += sigma * p.noise.at(i, lanes);
        }
        store(x_s + j, y, lanes, stream);
      });
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

// dots [rows, 3]: the gradients of d0, d1, sigma.
template <class T>
__attribute__((noinline)) void guided_rows_backward(const GuidedArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  T* const dots = (T*)a.dots;
  zero_dots<T>(a, dots, 3, begin, end);
  const V gamma_un = V{} + (T)(1 - a.gamma_cp - a.gamma_tf), gamma_cp = V{} + (T)a.gamma_cp,
          gamma_tf = V{} + (T)a.gamma_tf;
  const bool constant = constant_levels(a), stream = a.streaming_stores;
  PosteriorCoefficients c = posterior_coefficients_of(a, begin, 0);
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 12> data(a, tile);
    const Branches<T> branches(a, data);
    const Elements<T> g_x_s = data.input(a.g_x_s), g_f = data.input(a.g_f), x_t = data.input(dots ? a.x_t : nullptr);
    T *const g_x_t = data.output(a.g_x_t), *const g_un = data.output(a.g_un), *const g_cp = data.output(a.g_cp),
             *const g_tf = data.output(a.g_tf), *const g_noise = data.output(a.g_noise);
    const bool uniform = constant && !dots && a.D % 16 == 0;
    const Elements<T> noise = data.input(dots ? a.noise : nullptr);
    for_each_piece(a, tile, noise, uniform, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (!constant) {
        c = posterior_coefficients_of(a, p.b, p.k);
      }
      const V d0 = V{} + (T)c.d0, d1 = V{} + (T)c.d1, sigma = V{} + (T)c.sigma;
      const bool noisy = c.sigma != 0;
      V by_f{}, by_x{}, by_noise{};
      for_each_vector_rolled<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const int64_t j = p.at + i;
        const V g = g_x_s.p ? g_x_s.at(j, lanes) : V{};  // zeros past the end, so the sums need no mask
        V h = d0 * g;                                    // the gradient of the combination
        if (g_f.p) {
          h += g_f.at(j, lanes);
        }
        if (dots) {
          by_f += g * branches.at(j, lanes);
          by_x += g * x_t.at(j, lanes);
          if (noisy && p.noise.p) {
            by_noise += g * p.noise.at(i, lanes);
          }
        }
        if (g_x_t) {
          store(g_x_t + j, d1 * g, lanes, stream);
        }
        if (g_un) {
          store(g_un + j, gamma_un * h, lanes, stream);
        }
        if (g_cp) {
          store(g_cp + j, a.gamma_cp != 0 ? gamma_cp * h : V{}, lanes, stream);
        }
        if (g_tf) {
          store(g_tf + j, a.gamma_tf != 0 ? gamma_tf * h : V{}, lanes, stream);
        }
        if (g_noise) {
          store(g_noise + j, noisy ? sigma * g : V{}, lanes, stream);
        }
      });
      if (dots) {
        T* const to = dots + (p.b * a.K + p.k) * 3;
        to[0] += sum(by_f);
        to[1] += sum(by_x);
        to[2] += sum(by_noise);
      }
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

}  // namespace

void guided_posterior_step(const GuidedArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? guided_rows<double>(a, begin, end) : guided_rows<float>(a, begin, end);
}
void guided_posterior_step_backward(const GuidedArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? guided_rows_backward<double>(a, begin, end) : guided_rows_backward<float>(a, begin, end);
}

}  // namespace ORD_ISA
