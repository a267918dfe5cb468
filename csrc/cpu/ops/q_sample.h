// q_sample (and flow_sample): x_t = c0 x0 + c1 noise. Included once per instruction set.
#pragma once
#include "cpu/ops/diffusion_rows.h"

namespace ORD_ISA {
namespace {

using diffusion::SampleArgs;

struct SampleCoefficients {
  double c0, c1;
};

ORD_INLINE SampleCoefficients sample_coefficients(int prediction, double t) {
  if (prediction == diffusion::kFlow) {
    return {1 - t, t};
  }
  return {__builtin_sqrt(t), __builtin_sqrt(1 - t)};
}
ORD_INLINE SampleCoefficients sample_coefficients_of(const SampleArgs& a, int64_t b, int64_t k) {
  return sample_coefficients(a.prediction, level_of(a.t, b, k));
}

// x0 of the pieces of a tile.
template <class T>
struct X0Rows {
  const SampleArgs& a;
  const bool per_b;
  T* const buffer;
  const Elements<T> whole;

  template <class Data>
  X0Rows(const SampleArgs& args, Data& data, bool needed)
      : a(args),
        per_b(args.x0_per_b),
        buffer(per_b ? data.next_buffer() : nullptr),
        whole(data.input(per_b || !needed ? nullptr : args.x0)) {}

  inline __attribute__((always_inline)) Elements<T> of(const Piece<T>& p) const {
    return per_b ? read_elements<T>(a.type, a.x0, p.b * a.D + p.d, p.n, a.B * a.D, buffer)
                 : Elements<T>{whole.p + p.at, whole.end};
  }
};

template <class T>
__attribute__((noinline)) void q_sample_rows(const SampleArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  const bool stream = a.streaming_stores;
  SampleCoefficients c = sample_coefficients(a.prediction, a.t.constant);
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 3> data(a, tile);
    const X0Rows<T> x0_rows(a, data, true);
    const Elements<T> noise = data.input(a.noise);
    T* const x_t = data.output(a.x_t);
    const bool uniform = !a.t.values && !a.x0_per_b && a.D % 16 == 0;
    for_each_piece(a, tile, {}, uniform, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (a.t.values) {
        c = sample_coefficients_of(a, p.b, p.k);
      }
      const V c0 = V{} + (T)c.c0, c1 = V{} + (T)c.c1;
      const Elements<T> x0 = x0_rows.of(p);
      for_each_vector<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        store(x_t + p.at + i, c0 * x0.at(i, lanes) + c1 * noise.at(p.at + i, lanes), lanes, stream);
      });
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

// Gradients of all that has K rows for each b. dots [rows, 2]: those of c0, c1.
template <class T>
__attribute__((noinline)) void q_sample_rows_backward(const SampleArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  T* const dots = (T*)a.dots;
  zero_dots<T>(a, dots, 2, begin, end);
  const bool stream = a.streaming_stores;
  SampleCoefficients c = sample_coefficients(a.prediction, a.t.constant);
  for_each_tile<T>(a, begin, end, [&](const Tile<T>& tile) __attribute__((always_inline)) {
    TileData<T, 5> data(a, tile);
    const X0Rows<T> x0_rows(a, data, dots);
    const Elements<T> g_x_t = data.input(a.g_x_t);
    T *const g_x0 = data.output(a.x0_per_b ? nullptr : a.g_x0), *const g_noise = data.output(a.g_noise);
    const Elements<T> noise = data.input(dots ? a.noise : nullptr);
    for_each_piece(a, tile, noise, false, [&](const Piece<T>& p) __attribute__((always_inline)) {
      if (a.t.values) {
        c = sample_coefficients_of(a, p.b, p.k);
      }
      const V c0 = V{} + (T)c.c0, c1 = V{} + (T)c.c1;
      const Elements<T> x0 = dots ? x0_rows.of(p) : Elements<T>{};
      V by_x0{}, by_noise{};
      for_each_vector_rolled<T>(p.n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const V g = g_x_t.at(p.at + i, lanes);
        if (g_x0) {
          store(g_x0 + p.at + i, c0 * g, lanes, stream);
        }
        if (g_noise) {
          store(g_noise + p.at + i, c1 * g, lanes, stream);
        }
        if (dots) {
          by_x0 += g * x0.at(i, lanes);
          by_noise += g * p.noise.at(i, lanes);
        }
      });
      if (dots) {
        T* const to = dots + (p.b * a.K + p.k) * 2;
        to[0] += sum(by_x0);
        to[1] += sum(by_noise);
      }
    });
    data.write_back();
  });
  if (stream) {
    __builtin_ia32_sfence();
  }
}

// The gradient of an x0 [B, D] that all K rows share: their sum, up to kHalfTile columns at a time.
template <class T>
__attribute__((noinline)) void shared_x0_backward(const SampleArgs& a, int64_t begin, int64_t end) {
  using V = typename Traits<T>::V;
  alignas(64) T sums[kHalfTile + kSlack];
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t d = 0; d < a.D; d += kHalfTile) {
      const int64_t n = a.D - d < kHalfTile ? a.D - d : kHalfTile;
      __builtin_memset(sums, 0, sizeof sums);
      for (int64_t k = 0; k < a.K; ++k) {
        const Tile<T> tile{b, 1, k * a.D + d, n, nullptr, 0};
        TileData<T, 1> data(a, tile);
        const Elements<T> g = data.input(a.g_x_t);
        const V c0 = V{} + (T)sample_coefficients_of(a, b, k).c0;
        for_each_vector<T>(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
          store(sums + i, load(sums + i) + c0 * g.at(i, lanes));
        });
      }
      if (is_half(a.type)) {
        write_elements<T>(a.type, sums, a.g_x0, b * a.D + d, n);
      } else {
        __builtin_memcpy((T*)a.g_x0 + b * a.D + d, sums, n * sizeof(T));
      }
    }
  }
}

template <class T>
static void q_sample_backward_of(const SampleArgs& a, int64_t begin, int64_t end) {
  if (a.g_noise || a.dots || (a.g_x0 && !a.x0_per_b)) {
    q_sample_rows_backward<T>(a, begin, end);
  }
  if (a.g_x0 && a.x0_per_b) {
    shared_x0_backward<T>(a, begin, end);
  }
}

}  // namespace

void q_sample(const SampleArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? q_sample_rows<double>(a, begin, end) : q_sample_rows<float>(a, begin, end);
}
void q_sample_backward(const SampleArgs& a, int64_t begin, int64_t end) {
  a.type == DType::f64 ? q_sample_backward_of<double>(a, begin, end) : q_sample_backward_of<float>(a, begin, end);
}

}  // namespace ORD_ISA
