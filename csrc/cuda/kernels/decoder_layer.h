// A layer of the value decoder on a tile of R rows, each at a position of its own, with keys and values cached.
//
// Rows [R, n] lie in shared memory, their columns padded by zeros to a multiple of 16, so are the weights'. Matrix
// products are TF32x3 on tensor cores: a warp has 16 output columns of all rows; the weights come from L2, each block's
// all at every step. What belongs to one row alone (norms, residuals) is done by a warp, whose lanes keep to their own
// columns.
#pragma once
#include "mma_operands.h"
#include "numbers.h"

namespace decoder {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct Rows {  // [R, n] in shared memory
  Shared<float> data;
  int stride;
  __device__ __forceinline__ Shared<float> operator[](int r) const { return data + r * stride; }
};
// At least n, and without bank conflicts where eight lanes read 16 bytes each of two rows.
__device__ __host__ constexpr int stride_of(int n) { return (n + 15) / 32 * 32 + 16; }

struct Network {
  In<float> layers;                     // one after another, each as Layer says
  In<float> embedding, head_w, head_b;  // [V, n], [V, n], [V]; n: d, padded
  In<float> last, position;             // weight and bias [2, n] of the last norm, [T, n], or null
  int d, n, heads, units, V, L;         // units: padded
  bool pre, gelu;
  float eps;
};

struct Layer {
  In<float> qkv_w, qkv_b, out_w, out_b, w_1, b_1, w_2, b_2, norm1, norm3,
      norm2;  // norm: weight, bias; norm2: null where pre
  __device__ __forceinline__ Layer(const Network& net, int layer) {
    const int n = net.n, size = 4 * n * n + 5 * n + 2 * net.units * n + net.units + (net.pre ? 4 : 6) * n;
    In<float> at = net.layers + static_cast<int64_t>(layer) * size;
    const auto take = [&](int count) {
      const In<float> p = at;
      at = at + count;
      return p;
    };
    qkv_w = take(3 * n * n), qkv_b = take(3 * n), out_w = take(n * n), out_b = take(n);
    w_1 = take(net.units * n), b_1 = take(net.units), w_2 = take(n * net.units), b_2 = take(n);
    norm1 = take(2 * n), norm3 = take(2 * n), norm2 = net.pre ? In<float>{} : at;
  }
};

// put(row, column, left[row] . w[column] + b[column]); left [R, K], w [N, K], K a multiple of 16.
template <int R, class F>
__device__ __forceinline__ void linear(const Rows& left, In<float> w, In<float> b, int N, int K, F put) {
  using mma::kTF32x3;
  constexpr int M = R / 16;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int first = threadIdx.x / 32 * 16; first < N; first += kWarps * 16) {
    float c[M][2][4] = {};
    for (int k = 4 * t; k < K; k += 16) {
      mma::Operand<kTF32x3> right[2];
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        const int column = first + 8 * p + g;
        right[p] =
            mma::operand<kTF32x3>(column < N ? load<4>(w + (static_cast<int64_t>(column) * K + k)) : Vec<float, 4>{});
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const auto top = mma::operand<kTF32x3, true>(load<4>(left[16 * m + g] + k));
        const auto bottom = mma::operand<kTF32x3, true>(load<4>(left[16 * m + g + 8] + k));
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          float sum[4] = {};  // alone: tensor cores round towards zero
          mma::multiply<kTF32x3>(sum, top, bottom, right[p]);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            c[m][p][j] += sum[j];
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int column = first + i / 4 * 8 + 2 * t + i % 2;
        if (column < N) {
          put(16 * m + g + i % 4 / 2 * 8, column, c[m][i / 4][i % 4] + b[column]);
        }
      }
    }
  }
}

// f(row) by each row's own warp.
template <int R, class F>
__device__ __forceinline__ void each_row(F f) {
  for (int r = threadIdx.x / 32; r < R; r += kWarps) {
    f(r);
  }
}
// A warp's: to = norm(from) weight + bias; NaN where the variance overflows.
__device__ __forceinline__ void layer_norm(Shared<float> from, Shared<float> to, In<float> norm, int d, int n,
                                           float eps) {
  const int lane = threadIdx.x % 32;
  float mean = 0.0f, variance = 0.0f;
  for (int i = lane; i < d; i += 32) {
    mean += from[i];
  }
  warp_sum(mean);
  mean /= static_cast<float>(d);
  for (int i = lane; i < d; i += 32) {
    const float c = from[i] - mean;
    variance += c * c;
  }
  warp_sum(variance);
  variance /= static_cast<float>(d);
  const float scale = isinf(variance) ? NAN : 1.0f / sqrtf(variance + eps);
  for (int i = lane; i < n; i += 32) {
    to[i] = i < d ? (from[i] - mean) * scale * norm[i] + norm[n + i] : 0.0f;
  }
}

struct Cache {  // of a block: [L, steps, 2, R, n], keys and values
  Out<float> data;
  int steps;
};
template <int R>
__device__ __forceinline__ Out<float> cached(const Cache& c, int layer, int t, bool value, int r, int n) {
  return c.data + (((static_cast<int64_t>(layer) * c.steps + t) * 2 + value) * R + r) * n;
}

// From the queries in q, to what the heads read at positions 0, ..., at[r] in y. Scores [heads, steps] lie behind q.
template <int R>
__device__ __forceinline__ void attend(const Network& net, const Cache& c, int layer, const Rows& q, const Rows& y,
                                       Shared<int> at) {
  const int width = net.d / net.heads, n = net.n, tasks = R * net.heads;
  for (int i = threadIdx.x; i < tasks * c.steps; i += kThreads) {
    const int r = i % R, head = i / R % net.heads, t = i / tasks;
    if (t <= at[r]) {
      const Out<float> key = cached<R>(c, layer, t, false, r, n) + head * width;
      const Shared<float> query = q[r] + head * width;
      float score = 0.0f;
      for (int e = 0; e < width; ++e) {
        score += query[e] * key[e];
      }
      q[r][n + head * c.steps + t] = score;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tasks; i += kThreads) {
    const int r = i % R, count = at[r] + 1;
    const Shared<float> score = q[r] + (n + i / R * c.steps);
    float top = -INFINITY, total = 0.0f;
    for (int t = 0; t < count; ++t) {
      const float s = score[t];
      top = top > s ? top : s;  // NaN counts
    }
    for (int t = 0; t < count; ++t) {
      const float e = expf(score[t] - top);
      score[t] = e;
      total += e;
    }
    for (int t = 0; t < count; ++t) {
      score[t] = score[t] / total;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < R * n; i += kThreads) {
    const int r = i / n, column = i % n;
    float sum = 0.0f;
    if (column < net.d) {
      const Shared<float> share = q[r] + (n + column / width * c.steps);
      for (int t = 0; t <= at[r]; ++t) {
        sum += share[t] * cached<R>(c, layer, t, true, r, n)[column];
      }
    }
    y[r][column] = sum;
  }
  __syncthreads();
}

__device__ __forceinline__ float activate(float h, bool gelu) {
  return gelu ? 0.5f * h * (1.0f + erff(h * 0.7071067811865476f)) : h < 0.0f ? 0.0f : h;
}

// x [R, n] through the layer; y [R, n], wide: scratch. constant(r): [n], what attention to the memory adds to row r.
template <int R, class F>
__device__ __forceinline__ void run_layer(const Network& net, int layer, const Cache& cache, const Rows& x,
                                          const Rows& y, const Rows& wide, Shared<int> at, F constant) {
  const Layer w(net, layer);
  const int n = net.n, lane = threadIdx.x % 32;
  const Rows normed{net.pre ? y.data : x.data, x.stride};  // (a choice of structs would go through local memory)
  const auto norm = [&](int r, Rows to, In<float> which) { layer_norm(x[r], to[r], which, net.d, n, net.eps); };
  if (net.pre) {
    each_row<R>([&](int r) { norm(r, y, w.norm1); });
    __syncthreads();
  }
  const float scale = 1.0f / sqrtf(static_cast<float>(net.d / net.heads));
  linear<R>(normed, w.qkv_w, w.qkv_b, 3 * n, n, [&](int r, int column, float value) {
    if (column < n) {
      wide[r][column] = value * scale;
    } else {
      cached<R>(cache, layer, at[r], column >= 2 * n, r, n)[column % n] = value;
    }
  });
  __syncthreads();
  attend<R>(net, cache, layer, wide, y, at);
  linear<R>(y, w.out_w, w.out_b, n, n, [&](int r, int column, float value) { x[r][column] += value; });
  __syncthreads();
  each_row<R>([&](int r) {
    if (!net.pre) {
      norm(r, x, w.norm1);
    }
    const In<float> constants = constant(r);
    for (int i = lane; constants && i < n; i += 32) {
      x[r][i] += constants[i];
    }
    norm(r, normed, net.pre ? w.norm3 : w.norm2);
  });
  __syncthreads();
  linear<R>(normed, w.w_1, w.b_1, net.units, n,
            [&](int r, int column, float value) { wide[r][column] = activate(value, net.gelu); });
  __syncthreads();
  linear<R>(wide, w.w_2, w.b_2, n, net.units, [&](int r, int column, float value) { x[r][column] += value; });
  __syncthreads();
  if (!net.pre) {
    each_row<R>([&](int r) { norm(r, x, w.norm3); });
    __syncthreads();
  }
}

}  // namespace decoder
