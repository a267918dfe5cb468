// encode_increments: a target cut at the edges, the sums of the widths.
#pragma once
#include "increments.h"

namespace increments {

// y [B] -> increments [B, K] between the edges, the sums of the widths.
template <class T>
__global__ void encode_increments_kernel(In<T> y, Widths<T> w, Out<T> out, int64_t B, int K) {
  using A = Compute<T>;
  SharedMemory memory;
  const RowTile<A> tile(memory, blockDim.x, K);
  const int rows = rows_of_block(B), r = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x;
  if (!w.shared) {
    load_rows<T>(tile, w.all + first * K, rows, K);
  }
  __syncthreads();
  if (r < rows) {
    const A target = widen(static_cast<T>(y[first + r]));
    A edge = 0;
    for (int k = 0; k < K; ++k) {
      const A width = width_of(w, tile, r, k);
      tile.row(r)[k] = clip<A>(target - edge, width);
      edge += width;
    }
  }
  __syncthreads();
  store_rows<T>(tile, out + first * K, rows, K);
}

// w_rows [B, K]; or partial sums [blocks, 2, K] of the gradients inside and above, for shared widths.
template <class T>
__global__ void encode_increments_backward_kernel(In<T> y, Widths<T> w, In<T> g, Out<T> y_grad, Out<T> w_rows,
                                                  Out<Compute<T>> w_sums, int64_t B, int K) {
  using A = Compute<T>;
  SharedMemory memory;
  const RowTile<A> inside(memory, blockDim.x, K), above(memory, blockDim.x, K);  // at first g and the widths
  const int rows = rows_of_block(B), r = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x;
  load_rows<T>(inside, g + first * K, rows, K);
  if (!w.shared) {
    load_rows<T>(above, w.all + first * K, rows, K);
  }
  __syncthreads();
  if (r < rows) {
    const A target = widen(static_cast<T>(y[first + r]));
    A edge = 0, total = 0;
    for (int k = 0; k < K; ++k) {
      const A width = width_of(w, above, r, k), d = target - edge, gk = inside.row(r)[k];
      const A within = d >= A(0) && d <= width ? gk : A(0);
      inside.row(r)[k] = within;
      above.row(r)[k] = d > width ? gk : A(0);
      total += within;
      edge += width;
    }
    y_grad[first + r] = narrow<T>(total);
    if (w_rows) {  // an increment falls with every width before it
      A later = 0;
      for (int k = K - 1; k >= 0; --k) {
        const A within = inside.row(r)[k];
        later += within;
        above.row(r)[k] = static_cast<A>(above.row(r)[k]) - (later - within);
      }
    }
  }
  __syncthreads();
  if (w_rows) {
    store_rows<T>(above, w_rows + first * K, rows, K);
  } else {
    sum_columns<A>(inside, w_sums + static_cast<int64_t>(blockIdx.x) * 2 * K, rows, K);
    sum_columns<A>(above, w_sums + (static_cast<int64_t>(blockIdx.x) * 2 * K + K), rows, K);
  }
}

}  // namespace increments
