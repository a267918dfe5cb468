// nested_min: increments added up in order until the capacity is reached. Parts are left where the increments were.
#pragma once
#include "increments.h"

namespace increments {

template <class T>
struct Capacity {  // capacity [B] of rows, or the number `cap`; infinite for none
  In<T> rows;
  Compute<T> cap;
  bool any;
  __device__ __forceinline__ Compute<T> of(int64_t row) const { return rows ? widen(static_cast<T>(rows[row])) : cap; }
};

template <class T>
__global__ void nested_min_kernel(In<T> v, Widths<T> w, Capacity<T> capacity, Out<T> value, Out<T> clipped, int64_t B,
                                  int K) {
  using A = Compute<T>;
  SharedMemory memory;
  const RowTile<A> parts(memory, blockDim.x, K), widths(memory, w.shared ? 0 : blockDim.x, K);
  const int rows = rows_of_block(B), r = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x;
  load_rows<T>(parts, v + first * K, rows, K);
  if (!w.shared) {
    load_rows<T>(widths, w.all + first * K, rows, K);
  }
  __syncthreads();
  if (r < rows) {
    const A C = capacity.of(first + r);
    A total = 0, beyond = 0;
    bool below = true;  // the capacity is not reached; a NaN counts as reaching it
    for (int k = 0; k < K; ++k) {
      const A a = clip<A>(parts.row(r)[k], width_of(w, widths, r, k)), left = C - total;
      A part = a;
      if (!capacity.any || (below && a < left)) {
        total += a;
      } else if (below) {
        below = false;
        part = a == a ? left : a + left;
        total = part == part ? C : part;
        beyond = part == part ? A(0) : part;
      } else {
        part = beyond;
      }
      parts.row(r)[k] = part;
    }
    value[first + r] = narrow<T>(total);
  }
  __syncthreads();
  store_rows<T>(parts, clipped + first * K, rows, K);
}

template <class T>
struct NestedGradients {
  In<T> value, clipped;  // [B] or null, [B, K] or null
  Out<T> v, w_rows, c;   // [B, K], [B, K] or null, [B] or null
  Out<Compute<T>> w;     // partial sums [blocks, K] or null
};

template <class T>
__global__ void nested_min_backward_kernel(In<T> v, Widths<T> w, Capacity<T> capacity, NestedGradients<T> g, int64_t B,
                                           int K) {
  using A = Compute<T>;
  SharedMemory memory;
  const RowTile<A> vs(memory, blockDim.x, K), ws(memory, blockDim.x, K), gs(memory, g.clipped ? blockDim.x : 0, K);
  const int rows = rows_of_block(B), r = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x;
  load_rows<T>(vs, v + first * K, rows, K);
  if (!w.shared) {
    load_rows<T>(ws, w.all + first * K, rows, K);
  }
  if (g.clipped) {
    load_rows<T>(gs, g.clipped + first * K, rows, K);
  }
  __syncthreads();
  if (r < rows) {
    int reached = K;  // where the capacity is; K: nowhere
    if (capacity.any) {
      const A C = capacity.of(first + r);
      A total = 0;
      for (int k = 0; k < K && reached == K; ++k) {
        const A a = clip<A>(vs.row(r)[k], width_of(w, ws, r, k));
        reached = a < C - total ? K : k;
        total += a;
      }
    }
    const A by_value = g.value ? widen(static_cast<T>(g.value[first + r])) : A(0);
    const A at_cap = reached < K && g.clipped ? static_cast<A>(gs.row(r)[reached]) : A(0);
    const A base = reached < K ? -at_cap : by_value;
    if (g.c) {
      g.c[first + r] = narrow<T>(reached < K ? at_cap + by_value : A(0));
    }
    for (int k = 0; k < K; ++k) {
      const A x = vs.row(r)[k], y = width_of(w, ws, r, k);
      const A from_part = g.clipped ? static_cast<A>(gs.row(r)[k]) : A(0), ga = k < reached ? from_part + base : A(0);
      vs.row(r)[k] = x >= A(0) && x <= y ? ga : A(0);
      ws.row(r)[k] = x > y ? ga : A(0);
    }
  }
  __syncthreads();
  store_rows<T>(vs, g.v + first * K, rows, K);
  if (g.w_rows) {
    store_rows<T>(ws, g.w_rows + first * K, rows, K);
  }
  if (g.w) {
    sum_columns<A>(ws, g.w + static_cast<int64_t>(blockIdx.x) * K, rows, K);
  }
}

}  // namespace increments
