// CRPS of a sample, samples [B,L], y [B], and the pinball loss of quantiles, q [B,L], y [B]; rows [begin, end).
//
// With d = s - y in rising order, CRPS is sum_l d_l (sign(d_l) / L - lift_l): one factor for each, which is also its
// slope. Rows are sorted eight at once (row_sort.h), for the value alone as bare numbers.
#pragma once
#include <cstdint>

#include "cpu/simd/row_sort.h"

namespace ORD_ISA {
namespace crps {

using namespace row_sort;

#define ORD_TARGET
#include "cpu/simd/transpose.h"
#undef ORD_TARGET

// A number without its place.
template <class F>
struct Bare {
  F d;
};
RS_INLINE void exchange(Bare<double>* x, Bare<double>* y) { row_sort::exchange((Key32*)x, (Key32*)y); }
RS_INLINE void exchange(Bare<float>* __restrict x, Bare<float>* __restrict y) {
  typedef float Eight __attribute__((vector_size(32), may_alias, aligned(4)));
  Eight *p = (Eight*)x, *q = (Eight*)y;
  const Eight a = *p, b = *q;
#if defined(__AVX2__) && !defined(__clang__)
  *p = __builtin_ia32_minps256(a, b);
  *q = __builtin_ia32_maxps256(a, b);
#else
  *p = a < b ? a : b;
  *q = a < b ? b : a;
#endif
}
template <class F>
RS_INLINE F number(Bare<F> k) {
  return k.d;
}
template <class F>
RS_INLINE void pack(F d, int64_t, Bare<F>& k) {
  k.d = d;
}

template <class F>
RS_INLINE F sign(F d) {
  return (F)((d > 0) - (d < 0));
}

// Sums of eight columns, of which a narrow type's are moved to fp64 before they get long.
template <class F, class Key>
RS_INLINE void weigh(const Key* __restrict tile, const F* __restrict lift, F per_row, int64_t L,
                     double* __restrict value) {
  for (int r = 0; r < kRows; ++r) {
    value[r] = 0;
  }
  for (int64_t first = 0; first < L; first += 32) {
    const int64_t last = first + 32 < L ? first + 32 : L;
    F part[kRows] = {};
    for (int64_t l = first; l < last; ++l) {
#pragma omp simd
      for (int r = 0; r < kRows; ++r) {
        const F d = number(tile[l * kRows + r]);
        part[r] += d * (sign(d) * per_row - lift[l]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      value[r] += part[r];
    }
  }
}

#if defined(__AVX2__)
// Eight rows of fp32, L >= 8, less their y, into the columns of a tile: eight places at a time, the last eight again
// where L is not a multiple. Stored one by one they would keep the sort's first loads waiting. (Sixteen rows with
// AVX-512 were tried: exchanges of 64 bytes wait three times as long for the stores before.)
RS_INLINE void load_columns(const float* __restrict samples, const float* __restrict y, int64_t L,
                            Bare<float>* __restrict tile, bool* wild) {
  typedef float V __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
  I bad[kRows] = {};
  for (int64_t l = 0; l < L; l = l + 8 == L || l + 16 <= L ? l + 8 : l + 8 < L ? L - 8 : L) {
    V v[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __builtin_memcpy(v + r, samples + r * L + l, sizeof(V));
      v[r] -= y[r];
      const I real = v[r] == v[r];
      bad[r] |= ~real;
      v[r] = (V)((I)v[r] & real);
    }
    transpose<1, kRows>(v);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __builtin_memcpy(tile + (l + r) * kRows, v + r, sizeof(V));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < 8; ++i) {
      wild[r] |= bad[r][i] != 0;
    }
  }
}
#endif

// tile [L, kRows], then lift [L]: the thread's workspace. slopes [B,L] by place, or null, then with bare numbers.
template <class F, class Key>
static void forward(const F* __restrict samples, const F* __restrict y, F* __restrict value, F* __restrict slopes,
                    double per_pair, Key* __restrict tile, F* __restrict lift, int64_t L, int64_t begin, int64_t end) {
  const Network net(L);
  const F per_row = (F)(1.0 / (double)L);
  for (int64_t l = 0; l < L; ++l) {
    lift[l] = (F)((double)(2 * l - (L - 1)) * per_pair);
  }
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t n = end - r0 < kRows ? end - r0 : kRows;
    bool wild[kRows] = {};
    bool loaded = false;
#if defined(__AVX2__)
    if constexpr (sizeof(Key) == 4) {
      if (n == kRows && L >= 8) {
        load_columns(samples + r0 * L, y + r0, L, tile, wild), loaded = true;
      }
    }
#endif
    if (n < kRows) {
      for (int64_t i = 0; i < L * kRows; ++i) {
        pack((F)0, 0, tile[i]);
      }
    }
    for (int64_t r = loaded ? n : 0; r < n; ++r) {
      const F* __restrict x = samples + (r0 + r) * L;
      const F t = y[r0 + r];
      int bad = 0;
      for (int64_t l = 0; l < L; ++l) {
        const F d = x[l] - t;
        bad |= d != d;
        pack(d == d ? d : (F)0, l, tile[l * kRows + r]);
      }
      wild[r] = bad;
    }
    sort_columns(net, tile, L);
    double sums[kRows];
    weigh(tile, lift, per_row, L, sums);
    for (int64_t r = 0; r < n; ++r) {
      value[r0 + r] = wild[r] ? (F)__builtin_nan("") : (F)sums[r];
      if constexpr (sizeof(Key) > sizeof(F)) {  // keys with places
        F* __restrict to = slopes + (r0 + r) * L;
        for (int64_t l = 0; l < L; ++l) {
          const Key k = tile[l * kRows + r];
          to[place(k)] = sign(number(k)) * per_row - lift[l];
        }
        if (!wild[r]) {
          continue;
        }
        const F* __restrict x = samples + (r0 + r) * L;
        for (int64_t l = 0; l < L; ++l) {
          if (x[l] - y[r0 + r] != x[l] - y[r0 + r]) {
            to[l] = (F)__builtin_nan("");
          }
        }
      }
    }
  }
}

// Null for a gradient that is not wanted.
template <class F>
static void backward(const F* __restrict slopes, const F* __restrict g, F* __restrict gs, F* __restrict gy, int64_t L,
                     int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const F* __restrict s = slopes + r * L;
    const F gr = g[r];
    if (gs)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        gs[r * L + l] = gr * s[l];
      }
    if (!gy) {
      continue;
    }
    F sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < L; ++l) {
      sum += s[l];
    }
    gy[r] = -gr * sum;
  }
}

// step: from row to row of levels. g: null for none that came.
template <class F>
static void pinball(const F* __restrict q, const F* __restrict y, const F* __restrict levels, F* __restrict out,
                    int64_t step, int64_t L, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const F t = y[r];
    const F* __restrict level = levels + r * step;
#pragma omp simd
    for (int64_t l = 0; l < L; ++l) {
      const F d = t - q[r * L + l];
      out[r * L + l] = (d < 0 ? level[l] - 1 : level[l]) * d;
    }
  }
}

template <class F>
static void pinball_backward(const F* __restrict q, const F* __restrict y, const F* __restrict levels,
                             const F* __restrict g, F* __restrict gq, F* __restrict gy, int64_t step, int64_t L,
                             int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const F t = y[r];
    const F* __restrict level = levels + r * step;
    F sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < L; ++l) {
      const F d = t - q[r * L + l];
      const F below = d < 0 ? level[l] - 1 : d == 0 ? level[l] - (F)0.5 : d;  // NaN stays
      const F slope = (d > 0 ? level[l] : below) * (g ? g[r * L + l] : (F)0);
      if (gq) {
        gq[r * L + l] = -slope;
      }
      sum += slope;
    }
    if (gy) {
      gy[r] = sum;
    }
  }
}

}  // namespace crps

// workspace: L * kRows keys, of 8 bytes for fp32 and of 16 for fp64, then L numbers.
void crps_forward(bool is_double, const void* s, const void* y, void* value, void* slopes, double per_pair,
                  void* workspace, int64_t L, int64_t begin, int64_t end) {
  namespace c = crps;
#define CRPS_RUN(F, K)                                                                       \
  c::forward<F, K>((const F*)s, (const F*)y, (F*)value, (F*)slopes, per_pair, (K*)workspace, \
                   (F*)((K*)workspace + L * c::kRows), L, begin, end)
  if (is_double && slopes) {
    CRPS_RUN(double, c::Key64);
  } else if (is_double) {
    CRPS_RUN(double, c::Bare<double>);
  } else if (slopes) {
    CRPS_RUN(float, c::Key32);
  } else {
    CRPS_RUN(float, c::Bare<float>);
  }
#undef CRPS_RUN
}

void crps_backward(bool is_double, const void* slopes, const void* g, void* gs, void* gy, int64_t L, int64_t begin,
                   int64_t end) {
  namespace c = crps;
  if (is_double) {
    c::backward((const double*)slopes, (const double*)g, (double*)gs, (double*)gy, L, begin, end);
  } else {
    c::backward((const float*)slopes, (const float*)g, (float*)gs, (float*)gy, L, begin, end);
  }
}

void pinball_forward(bool is_double, const void* q, const void* y, const void* levels, void* out, int64_t step,
                     int64_t L, int64_t begin, int64_t end) {
  namespace c = crps;
  if (is_double) {
    c::pinball((const double*)q, (const double*)y, (const double*)levels, (double*)out, step, L, begin, end);
  } else {
    c::pinball((const float*)q, (const float*)y, (const float*)levels, (float*)out, step, L, begin, end);
  }
}

void pinball_backward(bool is_double, const void* q, const void* y, const void* levels, const void* g, void* gq,
                      void* gy, int64_t step, int64_t L, int64_t begin, int64_t end) {
  namespace c = crps;
#define PINBALL_RUN(F) \
  c::pinball_backward((const F*)q, (const F*)y, (const F*)levels, (const F*)g, (F*)gq, (F*)gy, step, L, begin, end)
  if (is_double) {
    PINBALL_RUN(double);
  } else {
    PINBALL_RUN(float);
  }
#undef PINBALL_RUN
}

}  // namespace ORD_ISA
