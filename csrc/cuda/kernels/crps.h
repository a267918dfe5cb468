// crps: the row's samples less its label are sorted in a thread's registers; each then has one factor.
#pragma once
#include "sort_row.h"

namespace crps {

constexpr int kThreads = 64;  // and rows, of a block

// value [B]; slopes [B, L] if kSlopes. per_row = 1 / L, per_pair = 1 / (L L), or 1 / (L (L - 1)) for the fair score.
template <int N, bool kSlopes>
__global__ void __launch_bounds__(kThreads)
    crps_kernel(In<float> samples, In<float> y, Out<float> value, Out<float> slopes, int64_t B, int L, float per_row,
                float per_pair) {
  SharedMemory memory;
  const RowTile<float> tile(memory, kThreads, L);
  const int rows = rows_of_block(B), r = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads;
  load_rows<float>(tile, samples + first * L, rows, L);
  __syncthreads();
  if (r < rows) {
    const float label = y[first + r];
    sorting::Key<kSlopes> keys[N];
    sorting::sort_row<kSlopes>(keys, tile.row(r), label, L);
    float terms[N];
    bool has_nan = false;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float d = sorting::number_of(keys[i]), sign = d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f;
      const float term = d * (sign * per_row - static_cast<float>(2 * i - (L - 1)) * per_pair);
      // Of an infinite label each term is infinite, though a factor may be 0.
      terms[i] = i >= L || (isinf(label) && !(term > 0.0f) && d == d) ? 0.0f : term;
      has_nan = has_nan || (i < L && d != d);
    }
    if constexpr (kSlopes) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (i < L) {
          const float d = sorting::number_of(keys[i]), sign = d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f;
          const float slope = sign * per_row - static_cast<float>(2 * i - (L - 1)) * per_pair;
          tile.row(r)[sorting::column_of(keys[i])] = has_nan ? NAN : slope;
        }
      }
    }
    const float total = sorting::tree_sum(terms);
    value[first + r] = has_nan ? NAN : total;
  }
  if constexpr (kSlopes) {
    __syncthreads();
    store_rows<float>(tile, slopes + first * L, rows, L);
  }
}

constexpr int kWarps = 4;  // of a block of the backward: a warp has a row

// Gradients of the samples [B, L], g slopes, and of y [B], -g times the sum of the slopes; either may be null.
template <class T>
__global__ void __launch_bounds__(32 * kWarps)
    crps_backward_kernel(In<T> slopes, In<T> g, Out<T> samples_grad, Out<T> y_grad, int64_t B, int L) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= B) {
    return;
  }
  const T scale = g[row];
  T total = 0;
  for (int l = lane; l < L; l += 32) {
    const T slope = slopes[row * L + l];
    if (samples_grad) {
      samples_grad[row * L + l] = scale * slope;
    }
    total += slope;
  }
  warp_sum(total);
  if (y_grad && lane == 0) {
    y_grad[row] = -scale * total;
  }
}

}  // namespace crps
