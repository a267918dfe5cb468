// What nested_min and encode_increments share: one row a thread, whole rows [K] in shared memory.
//
// Widths [K] that all rows share are read from global memory (every thread the same one); their gradient is a partial
// sum for each block, over its rows in order.
#pragma once
#include "row_tile.h"

namespace increments {

template <class A>
__device__ __forceinline__ A clip(A v, A w) {  // torch.clamp(v, 0, w): NaN in either gives NaN
  const A a = v < A(0) ? A(0) : v;
  return a <= w ? a : a == a ? w : a;
}

template <class T>
struct Widths {
  In<T> all;  // [K], or [B, K]
  bool shared;
};

template <class T>
__device__ __forceinline__ Compute<T> width_of(const Widths<T>& w, const RowTile<Compute<T>>& tile, int r, int k) {
  return w.shared ? widen(static_cast<T>(w.all[k])) : static_cast<Compute<T>>(tile.row(r)[k]);
}

}  // namespace increments
