// Sorted samples against two quantile vectors. samples, q_user, q_item [B,L]; lam [B]; rows [begin, end).
//
// Rows are sorted eight at once, a number with its place (row_sort.h).
#pragma once
#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/simd/row_sort.h"

namespace ORD_ISA {
namespace wasserstein {

using namespace row_sort;

template <class F>
RS_INLINE uint8_t code(F x) {  // 0: zero, 1: positive, 2: negative, 3: NaN
  return (uint8_t)((x > 0) + 2 * (x < 0) + 3 * (x != x));
}

// tile [L, kRows] and keys [L]: the thread's workspace. signs [B,2,L], by rank and by place, or null.
template <class T, class F, class Key>
static void forward(const T* __restrict samples, const T* __restrict q_user, const T* __restrict q_item,
                    const F* __restrict lam, T* __restrict loss, uint8_t* __restrict signs, F* __restrict slope,
                    Key* __restrict tile, Key* __restrict keys, int64_t L, int64_t begin, int64_t end) {
  const Network net(L);
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t n = end - r0 < kRows ? end - r0 : kRows;
    if (n < kRows) {
      for (int64_t i = 0; i < L * kRows; ++i) {
        pack((F)0, 0, tile[i]);
      }
    }
    for (int64_t r = 0; r < n; ++r) {
      const T* __restrict x = samples + (r0 + r) * L;
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        pack(load(x[l]), l, keys[l]);
      }
      for (int64_t l = 0; l < L; ++l) {
        tile[l * kRows + r] = keys[l];
      }
    }
    sort_columns(net, tile, L);
    for (int64_t r = 0; r < n; ++r) {
      const T* __restrict u = q_user + (r0 + r) * L, * __restrict v = q_item + (r0 + r) * L;
      for (int64_t l = 0; l < L; ++l) {
        keys[l] = tile[l * kRows + r];
      }
      F to_user = 0, to_item = 0;
#pragma omp simd reduction(+ : to_user, to_item)
      for (int64_t l = 0; l < L; ++l) {
        const F s = number(keys[l]), a = s - load(u[l]), b = s - load(v[l]);
        to_user += a < 0 ? -a : a;
        to_item += b < 0 ? -b : b;
      }
      const F w = lam[r0 + r];
      store(loss + r0 + r, (w * to_user + (1 - w) * to_item) / (F)L);
      slope[r0 + r] = (to_user - to_item) / (F)L;
      if (!signs) {
        continue;
      }
      uint8_t* __restrict by_rank = signs + (r0 + r) * 2 * L;
      uint8_t* __restrict by_place = by_rank + L;
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        const F s = number(keys[l]);
        by_rank[l] = (uint8_t)(code(s - load(u[l])) + 4 * code(s - load(v[l])));
      }
      for (int64_t l = 0; l < L; ++l) {
        by_place[place(keys[l])] = by_rank[l];
      }
    }
  }
}

template <class F>
RS_INLINE F sign(int32_t c) {
  const F s = (F)((c & 1) - ((c >> 1) & 1));
  return (c & 3) == 3 ? (F)__builtin_nanf("") : s;
}

// Null for a gradient that is not wanted.
template <class T, class F>
static void backward(const uint8_t* __restrict signs, const F* __restrict slope, const F* __restrict lam,
                     const T* __restrict g, T* __restrict gs, T* __restrict gu, T* __restrict gv, F* __restrict glam,
                     int64_t L, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* __restrict by_rank = signs + r * 2 * L, * __restrict by_place = by_rank + L;
    const F gr = load(g[r]), user = lam[r] * gr / (F)L, item = (1 - lam[r]) * gr / (F)L;
    if (gs)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        store(gs + r * L + l, user * sign<F>(by_place[l]) + item * sign<F>(by_place[l] >> 2));
      }
    if (gu)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        store(gu + r * L + l, -user * sign<F>(by_rank[l]));
      }
    if (gv)
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        store(gv + r * L + l, -item * sign<F>(by_rank[l] >> 2));
      }
    if (glam) {
      glam[r] = gr * slope[r];
    }
  }
}

}  // namespace wasserstein

// workspace: (kRows + 1) * L keys, of 8 bytes for fp32 and below, of 16 for
// fp64.
void wasserstein_forward(DType dtype, const void* s, const void* u, const void* v, const void* lam, void* loss,
                         uint8_t* signs, void* slope, void* workspace, int64_t L, int64_t begin, int64_t end) {
  namespace w = wasserstein;
#define WD_RUN(T, F, K)                                                                                                \
  w::forward<T, F, K>((const T*)s, (const T*)u, (const T*)v, (const F*)lam, (T*)loss, signs, (F*)slope, (K*)workspace, \
                      (K*)workspace + w::kRows * L, L, begin, end)
  if (dtype == DType::f32) {
    WD_RUN(float, float, w::Key32);
  } else if (dtype == DType::f64) {
    WD_RUN(double, double, w::Key64);
  } else if (dtype == DType::bf16) {
    WD_RUN(w::Bf16, float, w::Key32);
  } else {
    WD_RUN(w::Fp16, float, w::Key32);
  }
#undef WD_RUN
}

void wasserstein_backward(DType dtype, const uint8_t* signs, const void* slope, const void* lam, const void* g,
                          void* gs, void* gu, void* gv, void* glam, int64_t L, int64_t begin, int64_t end) {
  namespace w = wasserstein;
#define WD_RUN(T, F) \
  w::backward<T, F>(signs, (const F*)slope, (const F*)lam, (const T*)g, (T*)gs, (T*)gu, (T*)gv, (F*)glam, L, begin, end)
  if (dtype == DType::f32) {
    WD_RUN(float, float);
  } else if (dtype == DType::f64) {
    WD_RUN(double, double);
  } else if (dtype == DType::bf16) {
    WD_RUN(w::Bf16, float);
  } else {
    WD_RUN(w::Fp16, float);
  }
#undef WD_RUN
}
}  // namespace ORD_ISA
