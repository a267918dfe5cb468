// A row of up to N numbers, sorted in a thread's registers by a network: odd-even mergesort, every index a constant.
//
// Keys order as torch.sort(stable=True) does: NaN last, -0 like 0, equal numbers by their column (in the lower half).
#pragma once
#include "row_tile.h"

namespace sorting {

constexpr uint32_t kNaN = 0xFFFFFFFF;

__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return x != x ? kNaN : bits ^ (bits >> 31 ? 0xFFFFFFFF : 0x80000000);
}
__device__ __forceinline__ float number_of(uint32_t key) {
  return key == kNaN ? NAN : __uint_as_float(key ^ (key >> 31 ? 0x80000000 : 0xFFFFFFFF));
}

template <bool kColumns>
struct KeyType {
  using type = uint32_t;
};
template <>
struct KeyType<true> {
  using type = uint64_t;
};
template <bool kColumns>
using Key = typename KeyType<kColumns>::type;

template <bool kColumns>
__device__ __forceinline__ Key<kColumns> key_of(float x, int column) {
  if constexpr (kColumns) {
    return static_cast<uint64_t>(ordered(x)) << 32 | static_cast<uint32_t>(column);
  } else {
    return ordered(x);
  }
}
__device__ __forceinline__ float number_of(uint64_t key) { return number_of(static_cast<uint32_t>(key >> 32)); }
__device__ __forceinline__ int column_of(uint64_t key) { return static_cast<int>(static_cast<uint32_t>(key)); }

// Merging runs of P: neighbours at distance Q, P / 2, ..., 1; then runs of 2 P.
template <int P, int Q, int N, class K>
__device__ __forceinline__ void merge(K (&keys)[N]) {
#pragma unroll
  for (int a = Q % P; a + Q < N; ++a) {
    if ((a - Q % P) % (2 * Q) < Q && a / (2 * P) == (a + Q) / (2 * P)) {
      const K low = keys[a], high = keys[a + Q];
      keys[a] = low < high ? low : high;
      keys[a + Q] = low < high ? high : low;
    }
  }
  if constexpr (Q > 1) {
    merge<P, Q / 2>(keys);
  } else if constexpr (2 * P < N) {
    merge<2 * P, 2 * P>(keys);
  }
}
template <int N, class K>
__device__ __forceinline__ void sort(K (&keys)[N]) {
  merge<1, 1>(keys);
}

// Sorts a row of the tile shifted by `by`; behind its L numbers the keys are the largest.
template <bool kColumns, int N>
__device__ __forceinline__ void sort_row(Key<kColumns> (&keys)[N], Shared<float> row, float by, int L) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    keys[i] = i < L ? key_of<kColumns>(row[i] - by, i) : static_cast<Key<kColumns>>(~UINT64_C(0));
  }
  sort(keys);
}

template <int N>
__device__ __forceinline__ float tree_sum(float (&x)[N]) {  // of x, which is used up
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      x[i] = i < half ? x[i] + x[i + half] : x[i];
    }
  }
  return x[0];
}

}  // namespace sorting
