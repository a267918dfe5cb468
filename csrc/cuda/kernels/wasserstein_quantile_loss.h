// wasserstein_quantile_loss: sorted samples against two vectors of quantiles, one row a thread.
//
// What the backward needs is a byte for each number: the signs of its differences, by rank and by the sample's place.
#pragma once
#include "sort_row.h"

namespace wasserstein {

constexpr int kPositive = 1, kNegative = 2, kSignOfNaN = 3;  // 0: zero; of the item's side four times that is added

__device__ __forceinline__ int sign_code(float x) {
  return x > 0.0f ? kPositive : x < 0.0f ? kNegative : x != x ? kSignOfNaN : 0;
}
template <class A>
__device__ __forceinline__ A sign_of(int code) {
  code &= 3;
  return code == kSignOfNaN ? not_a_number<A>() : A((code == kPositive) - (code == kNegative));
}

// The mean of L terms, also where their sum overflows and the mean does not.
template <int N, class F>
__device__ __forceinline__ float mean_of(F term, int L) {
  float x[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    x[i] = i < L ? term(i) : 0.0f;
  }
  const float n = static_cast<float>(L), mean = sorting::tree_sum(x) / n;
  if (isfinite(mean)) {
    return mean;
  }
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    total += i < L ? term(i) / n : 0.0f;
  }
  return total;
}

// One kernel for the storage types up to fp32, as it is the network that takes long to compile: one of the pointers is
// set.
struct Rows {
  In<float> f;
  In<bf16> b;
  In<__half> h;
  __device__ __forceinline__ float operator[](int64_t i) const {
    return f ? static_cast<float>(f[i]) : b ? widen(static_cast<bf16>(b[i])) : widen(static_cast<__half>(h[i]));
  }
};
struct OutRows {
  Out<float> f;
  Out<bf16> b;
  Out<__half> h;
  __device__ __forceinline__ void set(int64_t i, float x) const {
    if (f) {
      f[i] = x;
    } else if (b) {
      b[i] = narrow<bf16>(x);
    } else {
      h[i] = narrow<__half>(x);
    }
  }
};
struct Outputs {
  OutRows loss;        // [B]
  Out<uint8_t> signs;  // [B, 2, L] or null
  Out<float> slope;    // [B], dloss / dlam
};

constexpr int kThreads = 64;  // and rows, of a block

template <int N>
__global__ void __launch_bounds__(kThreads) loss_kernel(const Rows samples, const Rows q_user, const Rows q_item,
                                                        In<float> lam, const Outputs out, int64_t B, int L) {
  SharedMemory memory;
  const RowTile<float> tile(memory, kThreads, L), user(memory, kThreads, L), item(memory, kThreads, L);
  const int rows = rows_of_block(B), r = threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads;
  each_element(rows, L, [&](int row, int c, int i) {
    tile.row(row)[c] = samples[first * L + i];
    user.row(row)[c] = q_user[first * L + i];
    item.row(row)[c] = q_item[first * L + i];
  });
  __syncthreads();
  if (r < rows) {
    sorting::Key<true> keys[N];
    sorting::sort_row<true>(keys, tile.row(r), 0.0f, L);
    const float weight = lam[first + r];
    const auto to_user = [&](int i) { return sorting::number_of(keys[i]) - user.row(r)[i]; };
    const auto to_item = [&](int i) { return sorting::number_of(keys[i]) - item.row(r)[i]; };
    const auto term = [&](int i) { return weight * fabsf(to_user(i)) + (1.0f - weight) * fabsf(to_item(i)); };
    out.loss.set(first + r, mean_of<N>(term, L));
    out.slope[first + r] = mean_of<N>([&](int i) { return fabsf(to_user(i)) - fabsf(to_item(i)); }, L);
    if (out.signs) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (i < L) {
          const float code = static_cast<float>(sign_code(to_user(i)) + 4 * sign_code(to_item(i)));
          user.row(r)[i] = code;
          tile.row(r)[sorting::column_of(keys[i])] = code;
        }
      }
    }
  }
  if (!out.signs) {
    return;
  }
  __syncthreads();
  each_element(rows, L, [&](int row, int c, int) {
    const int64_t at = (first + row) * 2 * L + c;
    const float by_rank = user.row(row)[c], by_place = tile.row(row)[c];
    out.signs[at] = static_cast<uint8_t>(by_rank);
    out.signs[at + L] = static_cast<uint8_t>(by_place);
  });
}

template <class T>
struct Gradients {  // [B, L] each and [B], or null
  Out<T> samples, q_user, q_item;
  Out<Compute<T>> lam;
};

constexpr int kWarps = 4;  // of a block of the backward: a warp has a row

template <class T>
__global__ void __launch_bounds__(32 * kWarps)
    loss_backward_kernel(In<uint8_t> signs, In<Compute<T>> slope, In<Compute<T>> lam, In<T> g, Gradients<T> out,
                         int64_t B, int L) {
  using A = Compute<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= B) {
    return;
  }
  const A weight = lam[row], gr = widen(static_cast<T>(g[row]));
  const A user = weight * gr / A(L), item = (A(1) - weight) * gr / A(L);
  for (int l = lane; l < L; l += 32) {
    const int by_rank = signs[row * 2 * L + l], by_place = signs[row * 2 * L + L + l];
    if (out.samples) {
      out.samples[row * L + l] = narrow<T>(user * sign_of<A>(by_place) + item * sign_of<A>(by_place / 4));
    }
    if (out.q_user) {
      out.q_user[row * L + l] = narrow<T>(-user * sign_of<A>(by_rank));
    }
    if (out.q_item) {
      out.q_item[row * L + l] = narrow<T>(-item * sign_of<A>(by_rank / 4));
    }
  }
  if (out.lam && lane == 0) {
    out.lam[row] = gr * static_cast<A>(slope[row]);
  }
}

}  // namespace wasserstein
