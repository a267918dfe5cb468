// CRPS of a sample, samples [B, L], y [B]; rows [begin, end).
//
// With d = s - y in rising order, CRPS is sum_l d_l (sign(d_l) / L - lift_l): one factor for each, which is also its
// slope. Rows are sorted eight at once (row_sort.h); for the value alone, as bare numbers.
#pragma once
#include "cpu/ops/crps_args.h"
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

// tile [L, kRows] sorted, lift [L] -> value [kRows]. A narrow type's sums are moved to fp64 before they get long.
template <class F, class Key>
RS_INLINE void sum_columns(const Key* __restrict tile, const F* __restrict lift, F per_row, int64_t L,
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
                            Bare<float>* __restrict tile, bool* has_nan) {
  typedef float V __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
  I nan[kRows] = {};
  for (int64_t l = 0; l < L; l = l + 8 == L || l + 16 <= L ? l + 8 : l + 8 < L ? L - 8 : L) {
    V v[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __builtin_memcpy(v + r, samples + r * L + l, sizeof(V));
      v[r] -= y[r];
      const I ordered = v[r] == v[r];
      nan[r] |= ~ordered;
      v[r] = (V)((I)v[r] & ordered);
    }
    transpose<1, kRows>(v);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __builtin_memcpy(tile + (l + r) * kRows, v + r, sizeof(V));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < 8; ++i) {
      has_nan[r] |= nan[r][i] != 0;
    }
  }
}
#endif

// n rows of samples [n, L] less y [n] into the columns of a tile, zeros for the missing rows and for NaN.
template <class F, class Key>
RS_INLINE void load_tile(const F* __restrict samples, const F* __restrict y, int64_t n, int64_t L, Key* __restrict tile,
                         bool* has_nan) {
#if defined(__AVX2__)
  if constexpr (sizeof(Key) == 4) {
    if (n == kRows && L >= 8) {
      return load_columns(samples, y, L, tile, has_nan);
    }
  }
#endif
  if (n < kRows) {
    for (int64_t i = 0; i < L * kRows; ++i) {
      pack((F)0, 0, tile[i]);
    }
  }
  for (int64_t r = 0; r < n; ++r) {
    const F* __restrict x = samples + r * L;
    const F t = y[r];
    int nan = 0;
    for (int64_t l = 0; l < L; ++l) {
      const F d = x[l] - t;
      nan |= d != d;
      pack(d == d ? d : (F)0, l, tile[l * kRows + r]);
    }
    has_nan[r] = nan;
  }
}

// Column r of a sorted tile -> slopes [L], in the order of the samples; NaN in a row that has a NaN.
template <class F, class Key>
RS_INLINE void write_slopes(const Key* __restrict column, const F* __restrict lift, F per_row, bool has_nan, int64_t L,
                            F* __restrict slopes) {
  for (int64_t l = 0; l < L; ++l) {
    const Key k = column[l * kRows];
    slopes[place(k)] = has_nan ? (F)__builtin_nan("") : sign(number(k)) * per_row - lift[l];
  }
}

// scratch: tile [L, kRows], then lift [L]. Keys with places where there are slopes to write, else bare numbers.
template <class F, class Key>
static void forward(const CrpsArgs& a, void* scratch, int64_t begin, int64_t end) {
  const int64_t L = a.L;
  const F* __restrict samples = (const F*)a.samples, * __restrict y = (const F*)a.y;
  F* __restrict value = (F*)a.value, * __restrict slopes = (F*)a.slopes;
  Key* __restrict tile = (Key*)scratch;
  F* __restrict lift = (F*)(tile + L * kRows);
  const Network net(L);
  const F per_row = (F)(1.0 / (double)L);
  for (int64_t l = 0; l < L; ++l) {
    lift[l] = (F)((double)(2 * l - (L - 1)) * a.per_pair);
  }
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t n = end - r0 < kRows ? end - r0 : kRows;
    bool has_nan[kRows] = {};
    load_tile(samples + r0 * L, y + r0, n, L, tile, has_nan);
    sort_columns(net, tile, L);
    double sums[kRows];
    sum_columns(tile, lift, per_row, L, sums);
    for (int64_t r = 0; r < n; ++r) {
      const F infinity = (F)__builtin_inf();
      const bool infinite_y = y[r0 + r] == infinity || y[r0 + r] == -infinity;  // one of its factors may be 0
      value[r0 + r] = has_nan[r] ? (F)__builtin_nan("") : infinite_y ? infinity : (F)sums[r];
      if constexpr (sizeof(Key) > sizeof(F)) {  // keys with places
        write_slopes(tile + r, lift, per_row, has_nan[r], L, slopes + (r0 + r) * L);
      }
    }
  }
}

template <class F>
static void backward(const CrpsBackwardArgs& a, int64_t begin, int64_t end) {
  const int64_t L = a.L;
  const F* __restrict slopes = (const F*)a.slopes, * __restrict g = (const F*)a.g;
  F* __restrict g_samples = (F*)a.g_samples, * __restrict g_y = (F*)a.g_y;
  for (int64_t r = begin; r < end; ++r) {
    const F* __restrict s = slopes + r * L;
    const F gr = g[r];
    if (g_samples) {
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        g_samples[r * L + l] = gr * s[l];
      }
    }
    if (!g_y) {
      continue;
    }
    F sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < L; ++l) {
      sum += s[l];
    }
    g_y[r] = -gr * sum;
  }
}

}  // namespace crps

// scratch: crps_scratch(a) bytes.
void crps_forward(const CrpsArgs& a, void* scratch, int64_t begin, int64_t end) {
  using namespace crps;
  if (a.is_double) {
    a.slopes ? forward<double, Key64>(a, scratch, begin, end) : forward<double, Bare<double>>(a, scratch, begin, end);
  } else {
    a.slopes ? forward<float, Key32>(a, scratch, begin, end) : forward<float, Bare<float>>(a, scratch, begin, end);
  }
}

void crps_backward(const CrpsBackwardArgs& a, int64_t begin, int64_t end) {
  a.is_double ? crps::backward<double>(a, begin, end) : crps::backward<float>(a, begin, end);
}

}  // namespace ORD_ISA
