// Sorted samples against two quantile vectors: samples, q_user, q_item [B, L], lam [B]; rows [begin, end).
//
// Rows are sorted eight at once, a number with its place (row_sort.h). For the gradients, the signs of the sorted
// samples less each vector are stored, two bits each.
#pragma once
#include "cpu/ops/wasserstein_quantile_loss_args.h"
#include "cpu/simd/row_sort.h"

namespace ORD_ISA {
namespace wasserstein {

using namespace row_sort;

template <class F>
RS_INLINE uint8_t sign_code(F x) {  // 0: zero, 1: positive, 2: negative, 3: NaN
  return (uint8_t)((x > 0) + 2 * (x < 0) + 3 * (x != x));
}

template <class F>
RS_INLINE F sign(int32_t code) {
  const F s = (F)((code & 1) - ((code >> 1) & 1));
  return (code & 3) == 3 ? (F)__builtin_nanf("") : s;
}

// n rows of samples [n, L] into the columns of a tile, zeros for the missing rows. keys [L]: scratch.
template <class T, class F, class Key>
RS_INLINE void load_tile(const T* __restrict samples, int64_t n, int64_t L, Key* __restrict tile,
                         Key* __restrict keys) {
  if (n < kRows) {
    for (int64_t i = 0; i < L * kRows; ++i) {
      pack((F)0, 0, tile[i]);
    }
  }
  for (int64_t r = 0; r < n; ++r) {
    const T* __restrict x = samples + r * L;
#pragma omp simd
    for (int64_t l = 0; l < L; ++l) {
      pack(load(x[l]), l, keys[l]);
    }
    for (int64_t l = 0; l < L; ++l) {
      tile[l * kRows + r] = keys[l];
    }
  }
}

// The sorted samples' mean distances to each vector, or their sums.
template <class F>
struct Distances {
  F user, item;
};

// keys, u, v [L]. Not inlined: copies of the loop for rows with and without signs were vectorised differently.
template <class T, class F, class Key>
__attribute__((noinline)) static Distances<F> distances(const Key* __restrict keys, const T* __restrict u,
                                                        const T* __restrict v, int64_t L) {
  F user = 0, item = 0;
#pragma omp simd reduction(+ : user, item)
  for (int64_t l = 0; l < L; ++l) {
    const F s = number(keys[l]), from_u = s - load(u[l]), from_v = s - load(v[l]);
    user += from_u < 0 ? -from_u : from_u;
    item += from_v < 0 ? -from_v : from_v;
  }
  return {user, item};
}

// Of a row whose sums overflow: each distance divided by L before it is added.
template <class T, class F, class Key>
__attribute__((noinline)) static Distances<F> large_distances(const Key* __restrict keys, const T* __restrict u,
                                                              const T* __restrict v, int64_t L) {
  F user = 0, item = 0;
  for (int64_t l = 0; l < L; ++l) {
    const F s = number(keys[l]), from_u = s - load(u[l]), from_v = s - load(v[l]);
    user += (from_u < 0 ? -from_u : from_u) / (F)L;
    item += (from_v < 0 ? -from_v : from_v) / (F)L;
  }
  return {user, item};
}

// keys, u, v [L] -> signs [2, L]: by rank and by place.
template <class T, class F, class Key>
RS_INLINE void write_signs(const Key* __restrict keys, const T* __restrict u, const T* __restrict v, int64_t L,
                           uint8_t* __restrict signs) {
  uint8_t* __restrict by_rank = signs;
  uint8_t* __restrict by_place = signs + L;
#pragma omp simd
  for (int64_t l = 0; l < L; ++l) {
    const F s = number(keys[l]);
    by_rank[l] = (uint8_t)(sign_code(s - load(u[l])) + 4 * sign_code(s - load(v[l])));
  }
  for (int64_t l = 0; l < L; ++l) {
    by_place[place(keys[l])] = by_rank[l];
  }
}

// scratch: tile [L, kRows], then keys [L].
template <class T, class F, class Key>
static void forward(const WassersteinArgs& a, void* scratch, int64_t begin, int64_t end) {
  const int64_t L = a.L;
  const T* __restrict samples = (const T*)a.samples, * __restrict q_user = (const T*)a.q_user;
  const T* __restrict q_item = (const T*)a.q_item;
  const F* __restrict lam = (const F*)a.lam;
  T* __restrict loss = (T*)a.loss;
  F* __restrict slope = (F*)a.slope;
  Key* __restrict tile = (Key*)scratch;
  Key* __restrict keys = tile + kRows * L;
  const Network net(L);
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t n = end - r0 < kRows ? end - r0 : kRows;
    load_tile<T, F>(samples + r0 * L, n, L, tile, keys);
    sort_columns(net, tile, L);
    for (int64_t r = 0; r < n; ++r) {
      const T* __restrict u = q_user + (r0 + r) * L, * __restrict v = q_item + (r0 + r) * L;
      for (int64_t l = 0; l < L; ++l) {
        keys[l] = tile[l * kRows + r];
      }
      const Distances<F> to = distances<T, F>(keys, u, v, L);
      const F w = lam[r0 + r], total = w * to.user + (1 - w) * to.item, inf = (F)__builtin_inf();
      F mean = total / (F)L, by_lam = (to.user - to.item) / (F)L;
      if (!(to.user < inf && to.item < inf && total < inf && -total < inf)) {
        const Distances<F> part = large_distances<T, F>(keys, u, v, L);
        mean = w * part.user + (1 - w) * part.item, by_lam = part.user - part.item;
      }
      store(loss + r0 + r, mean);
      slope[r0 + r] = by_lam;
      if (a.signs) {
        write_signs<T, F>(keys, u, v, L, a.signs + (r0 + r) * 2 * L);
      }
    }
  }
}

template <class T, class F>
static void backward(const WassersteinBackwardArgs& a, int64_t begin, int64_t end) {
  const int64_t L = a.L;
  const uint8_t* __restrict signs = a.signs;
  const F* __restrict slope = (const F*)a.slope, * __restrict lam = (const F*)a.lam;
  const T* __restrict g = (const T*)a.g;
  T* __restrict g_samples = (T*)a.g_samples, * __restrict g_q_user = (T*)a.g_q_user;
  T* __restrict g_q_item = (T*)a.g_q_item;
  F* __restrict g_lam = (F*)a.g_lam;
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* __restrict by_rank = signs + r * 2 * L;
    const uint8_t* __restrict by_place = by_rank + L;
    const F gr = load(g[r]), user = lam[r] * gr / (F)L, item = (1 - lam[r]) * gr / (F)L;
    if (g_samples) {
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        store(g_samples + r * L + l, user * sign<F>(by_place[l]) + item * sign<F>(by_place[l] >> 2));
      }
    }
    if (g_q_user) {
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        store(g_q_user + r * L + l, -user * sign<F>(by_rank[l]));
      }
    }
    if (g_q_item) {
#pragma omp simd
      for (int64_t l = 0; l < L; ++l) {
        store(g_q_item + r * L + l, -item * sign<F>(by_rank[l] >> 2));
      }
    }
    if (g_lam) {
      g_lam[r] = gr * slope[r];
    }
  }
}

}  // namespace wasserstein

// scratch: wasserstein_scratch(a) bytes.
void wasserstein_quantile_loss_forward(const WassersteinArgs& a, void* scratch, int64_t begin, int64_t end) {
  using namespace wasserstein;
  switch (a.dtype) {
    case DType::f32: return forward<float, float, Key32>(a, scratch, begin, end);
    case DType::f64: return forward<double, double, Key64>(a, scratch, begin, end);
    case DType::bf16: return forward<Bf16, float, Key32>(a, scratch, begin, end);
    case DType::f16: return forward<Fp16, float, Key32>(a, scratch, begin, end);
  }
}

void wasserstein_quantile_loss_backward(const WassersteinBackwardArgs& a, int64_t begin, int64_t end) {
  using namespace wasserstein;
  switch (a.dtype) {
    case DType::f32: return backward<float, float>(a, begin, end);
    case DType::f64: return backward<double, double>(a, begin, end);
    case DType::bf16: return backward<Bf16, float>(a, begin, end);
    case DType::f16: return backward<Fp16, float>(a, begin, end);
  }
}

}  // namespace ORD_ISA
