// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2) and the average of the
// parameters, in one pass over them; and of tables of which a step reads few rows, these rows alone, with all steps
// that they have missed.
#pragma once
#include "cpu/ops/adamw_args.h"
#include "cpu/simd/vectors.h"

namespace ORD_ISA {
namespace {

ORD_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
ORD_INLINE double square_root(double x) { return __builtin_sqrt(x); }

// The sum of the squares, in fp64.
template <class T>
double sum_of_squares(const T* __restrict g, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    sum += (double)g[i] * g[i];
  }
  return sum;
}

template <class T, bool kMean>
void adamw_elements(const AdamwRun& a, const AdamwStep& step, const AdamwBetas& b) {
  T* __restrict p = (T*)a.p, * __restrict m = (T*)a.m, * __restrict v = (T*)a.v, * __restrict mean = (T*)a.mean;
  const T* __restrict g = (const T*)a.g;
  const T decay = step.decay, rate = step.rate, root = step.root, weight = step.weight, eps = b.eps, scale = b.scale;
  const T rest1 = 1 - b.beta1, beta2 = b.beta2, rest2 = 1 - b.beta2;
#pragma omp simd
  for (int64_t i = 0; i < a.n; ++i) {
    const T x = g[i] * scale;
    const T first = m[i] + (x - m[i]) * rest1, second = v[i] * beta2 + rest2 * x * x;
    m[i] = first;
    v[i] = second;
    const T moved = p[i] - (p[i] * decay + rate * first / (square_root(second) * root + eps));
    p[i] = moved;
    if constexpr (kMean) {
      mean[i] += (moved - mean[i]) * weight;
    }
  }
}

// Up to a vector of a row's elements, its steps in registers.
template <class T>
struct RowPart {
  static constexpr int C = kLanes<T>;
  T p[C], m[C], v[C], mean[C];

  static void read(const void* from, int64_t at, int n, T* to) {
    for (int i = 0; i < C; ++i) {
      to[i] = from && i < n ? ((const T*)from)[at + i] : 0;
    }
  }
  static void write(const T* from, int64_t at, int n, void* to) {
    for (int i = 0; to && i < n; ++i) {
      ((T*)to)[at + i] = from[i];
    }
  }

  // A step without a gradient; did the momenta still move anything?
  bool idle_step(const AdamwStep& step, const AdamwBetas& b) {
    const T decay = step.decay, rate = step.rate, root = step.root, weight = step.weight, eps = b.eps;
    const T beta1 = b.beta1, beta2 = b.beta2;
    int moves = 0;
#pragma omp simd reduction(| : moves)
    for (int i = 0; i < C; ++i) {
      m[i] *= beta1;
      v[i] *= beta2;
      const T kept = p[i] - p[i] * decay, moved = kept - rate * m[i] / (square_root(v[i]) * root + eps);
      moves |= moved != kept;
      p[i] = moved;
      mean[i] += (moved - mean[i]) * weight;
    }
    return moves;
  }

  // Steps [from, to) without a gradient. Once the momenta move nothing any more, they never will: their share of p
  // shrinks from step to step. Then all steps together are linear in p and its average.
  void idle_steps(const AdamwRows& a, int64_t from, int64_t to, const AdamwBetas& b) {
    while (from < to) {
      if (!idle_step(a.steps[from++], b)) {
        break;
      }
    }
    if (from == to) {
      return;
    }
    const double* const rest = a.rest + 3 * from;
    const T decay = rest[0], keep = rest[1], share = rest[2];
    const T fade1 = __builtin_pow(b.beta1, (double)(to - from)), fade2 = __builtin_pow(b.beta2, (double)(to - from));
    for (int i = 0; i < C; ++i) {
      mean[i] = mean[i] * keep + p[i] * share;
      p[i] *= decay;
      m[i] *= fade1;
      v[i] *= fade2;
    }
  }
};

template <class T>
void adamw_row(const AdamwRows& a, int64_t row, int64_t u, const AdamwBetas& b) {
  for (int64_t d = 0; d < a.W; d += RowPart<T>::C) {
    const int n = a.W - d < RowPart<T>::C ? (int)(a.W - d) : RowPart<T>::C;
    const int64_t at = row * a.W + d;
    RowPart<T> part;
    part.read(a.table.p, at, n, part.p);
    part.read(a.table.m, at, n, part.m);
    part.read(a.table.v, at, n, part.v);
    part.read(a.table.mean, at, n, part.mean);
    if (!a.table.g) {
      part.idle_steps(a, a.last[row], a.step_count, b);
    } else {
      T g[RowPart<T>::C];
      part.read(a.table.g, u * a.W + d, n, g);
      adamw_elements<T, true>({false, RowPart<T>::C, part.p, part.m, part.v, part.mean, g}, a.steps[a.step_count - 1],
                              b);
    }
    part.write(part.p, at, n, a.table.p);
    part.write(part.m, at, n, a.table.m);
    part.write(part.v, at, n, a.table.v);
    part.write(part.mean, at, n, a.table.mean);
  }
  a.last[row] = a.step_count;
}

}  // namespace

void adamw_squares(const AdamwRun& a, double* sum) {
  *sum = a.is_double ? sum_of_squares((const double*)a.g, a.n) : sum_of_squares((const float*)a.g, a.n);
}
void adamw_dense(const AdamwRun& a, const AdamwStep& step, const AdamwBetas& b) {
  if (a.mean) {
    a.is_double ? adamw_elements<double, true>(a, step, b) : adamw_elements<float, true>(a, step, b);
  } else {
    a.is_double ? adamw_elements<double, false>(a, step, b) : adamw_elements<float, false>(a, step, b);
  }
}
// Rows [begin, end) of those at hand.
void adamw_rows(const AdamwRows& a, const AdamwBetas& b, int64_t begin, int64_t end) {
  for (int64_t u = begin; u < end; ++u) {
    const int64_t row = a.rows ? a.rows[u] : u;
    a.table.is_double ? adamw_row<double>(a, row, u, b) : adamw_row<float>(a, row, u, b);
  }
}

}  // namespace ORD_ISA
