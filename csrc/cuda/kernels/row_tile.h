// Whole rows [R, L] in shared memory: global memory is read and written in order, then each thread has a row.
#pragma once
#include "numbers.h"

template <class A>
struct RowTile {
  Shared<A> data;
  int stride;  // odd: threads that each go through their own row meet no bank conflicts

  __device__ __forceinline__ RowTile(SharedMemory& memory, int rows, int L)
      : data(memory.take<A>(rows * (L | 1))), stride(L | 1) {}
  __device__ __forceinline__ Shared<A> row(int r) const { return data + r * stride; }
};
template <class A>
constexpr size_t tile_bytes(int rows, int L) {
  return (rows * (L | 1) * sizeof(A) + 15) / 16 * 16;
}

// f(row, column, offset) of this thread's elements of [rows, L], in the order of memory.
template <class F>
__device__ __forceinline__ void each_element(int rows, int L, F f) {
  const int down = blockDim.x / L, right = blockDim.x % L;
  int r = threadIdx.x / L, c = threadIdx.x % L;
  for (int i = threadIdx.x; i < rows * L; i += blockDim.x) {
    f(r, c, i);
    r += down, c += right;
    if (c >= L) {
      c -= L, ++r;
    }
  }
}
template <class T, class A>
__device__ __forceinline__ void load_rows(const RowTile<A>& tile, In<T> from, int rows, int L) {
  each_element(rows, L, [&](int r, int c, int i) { tile.row(r)[c] = widen(static_cast<T>(from[i])); });
}
template <class T, class A>
__device__ __forceinline__ void store_rows(const RowTile<A>& tile, Out<T> to, int rows, int L) {
  each_element(rows, L, [&](int r, int c, int i) { to[i] = narrow<T>(tile.row(r)[c]); });
}
// The sum of each column, rows in order -> to [L].
template <class A>
__device__ __forceinline__ void sum_columns(const RowTile<A>& tile, Out<A> to, int rows, int L) {
  for (int c = threadIdx.x; c < L; c += blockDim.x) {
    A total = 0;
    for (int r = 0; r < rows; ++r) {
      total += tile.row(r)[c];
    }
    to[c] = total;
  }
}
__device__ __forceinline__ int rows_of_block(int64_t B) {  // of blockDim.x; the last block has fewer
  const int64_t left = B - static_cast<int64_t>(blockIdx.x) * blockDim.x;
  return left < static_cast<int64_t>(blockDim.x) ? static_cast<int>(left) : static_cast<int>(blockDim.x);
}
