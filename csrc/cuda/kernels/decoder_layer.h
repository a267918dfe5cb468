// A layer of the value decoder on a tile of R rows, each at a position of its own, with keys and values cached.
//
// A: float or double. Rows [R, n] lie in shared memory, their columns padded by zeros to a multiple of 16, so are the
// weights'. Matrix products are TF32x3 on tensor cores, or fp64 without them: a warp has 16 output columns of all rows;
// the weights come from L2, each block's all at every step. What belongs to one row alone (norms, residuals) is done by
// a warp, whose lanes keep to their own columns.
#pragma once
#include "mma_operands.h"
#include "numbers.h"

namespace decoder {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class A>
struct Rows {  // [R, n] in shared memory
  Shared<A> data;
  int stride;
  __device__ __forceinline__ Shared<A> operator[](int r) const { return data + r * stride; }
};
// At least n, and without bank conflicts where eight lanes read 16 bytes each of two rows.
__device__ __host__ constexpr int stride_of(int n) { return (n + 15) / 32 * 32 + 16; }

template <class A>
struct Network {
  In<A> layers;                     // one after another, each as Layer says
  In<A> embedding, head_w, head_b;  // [V, n], [V, n], [V]; n: d, padded
  In<A> last, position;             // weight and bias [2, n] of the last norm, [T, n], or null
  int d, n, heads, units, V, L;     // units: padded
  bool pre, gelu;
  A eps;
};

template <class A>
struct Layer {
  In<A> qkv_w, qkv_b, out_w, out_b, w_1, b_1, w_2, b_2, norm1, norm3,
      norm2;  // norm: weight, bias; norm2: null where pre
  __device__ __forceinline__ Layer(const Network<A>& net, int layer) {
    const int n = net.n, size = 4 * n * n + 5 * n + 2 * net.units * n + net.units + (net.pre ? 4 : 6) * n;
    In<A> at = net.layers + static_cast<int64_t>(layer) * size;
    const auto take = [&](int count) {
      const In<A> p = at;
      at = at + count;
      return p;
    };
    qkv_w = take(3 * n * n), qkv_b = take(3 * n), out_w = take(n * n), out_b = take(n);
    w_1 = take(net.units * n), b_1 = take(net.units), w_2 = take(n * net.units), b_2 = take(n);
    norm1 = take(2 * n), norm3 = take(2 * n), norm2 = net.pre ? In<A>{} : at;
  }
};

// put(row, column, left[row] . w[column] + b[column]); left [R, K], w [N, K], K a multiple of 16.
template <int R, class F>
__device__ __forceinline__ void linear(const Rows<float>& left, In<float> w, In<float> b, int N, int K, F put) {
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

// The same in fp64: a lane has one column of every second row.
template <int R, class F>
__device__ __forceinline__ void linear(const Rows<double>& left, In<double> w, In<double> b, int N, int K, F put) {
  const int lane = threadIdx.x % 32, odd = lane / 16;
  for (int column = threadIdx.x / 32 * 16 + lane % 16; column < N; column += kWarps * 16) {
    double c[R / 2] = {};
    for (int k = 0; k < K; k += 2) {
      const Vec<double, 2> right = load<2>(w + (static_cast<int64_t>(column) * K + k));
#pragma unroll
      for (int i = 0; i < R / 2; ++i) {
        const Vec<double, 2> x = load<2>(left[2 * i + odd] + k);
        c[i] = fma(x.v[1], right.v[1], fma(x.v[0], right.v[0], c[i]));
      }
    }
#pragma unroll
    for (int i = 0; i < R / 2; ++i) {
      put(2 * i + odd, column, c[i] + b[column]);
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
template <class A>
__device__ __forceinline__ void layer_norm(Shared<A> from, Shared<A> to, In<A> norm, int d, int n, A eps) {
  const int lane = threadIdx.x % 32;
  A mean = 0, variance = 0;
  for (int i = lane; i < d; i += 32) {
    mean += from[i];
  }
  warp_sum(mean);
  mean /= static_cast<A>(d);
  for (int i = lane; i < d; i += 32) {
    const A c = from[i] - mean;
    variance += c * c;
  }
  warp_sum(variance);
  variance /= static_cast<A>(d);
  const A scale = isinf(variance) ? not_a_number<A>() : A(1) / sqrt(variance + eps);
  for (int i = lane; i < n; i += 32) {
    to[i] = i < d ? (from[i] - mean) * scale * norm[i] + norm[n + i] : A(0);
  }
}

template <class A>
struct Cache {  // of a block: [L, steps, 2, R, n], keys and values
  Out<A> data;
  int steps;
};
template <int R, class A>
__device__ __forceinline__ Out<A> cached(const Cache<A>& c, int layer, int t, bool value, int r, int n) {
  return c.data + (((static_cast<int64_t>(layer) * c.steps + t) * 2 + value) * R + r) * n;
}

// From the queries in q, to what the heads read at positions 0, ..., at[r] in y. Scores [heads, steps] lie behind q.
template <int R, class A>
__device__ __forceinline__ void attend(const Network<A>& net, const Cache<A>& c, int layer, const Rows<A>& q,
                                       const Rows<A>& y, Shared<int> at) {
  const int width = net.d / net.heads, n = net.n, tasks = R * net.heads;
  for (int i = threadIdx.x; i < tasks * c.steps; i += kThreads) {
    const int r = i % R, head = i / R % net.heads, t = i / tasks;
    if (t <= at[r]) {
      const Out<A> key = cached<R>(c, layer, t, false, r, n) + head * width;
      const Shared<A> query = q[r] + head * width;
      A score = 0;
      for (int e = 0; e < width; ++e) {
        score += query[e] * key[e];
      }
      q[r][n + head * c.steps + t] = score;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tasks; i += kThreads) {
    const int r = i % R, count = at[r] + 1;
    const Shared<A> score = q[r] + (n + i / R * c.steps);
    A top = -INFINITY, total = 0;
    for (int t = 0; t < count; ++t) {
      const A s = score[t];
      top = top > s ? top : s;  // NaN counts
    }
    for (int t = 0; t < count; ++t) {
      const A e = exp(score[t] - top);
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
    A sum = 0;
    if (column < net.d) {
      const Shared<A> share = q[r] + (n + column / width * c.steps);
      for (int t = 0; t <= at[r]; ++t) {
        sum += share[t] * cached<R>(c, layer, t, true, r, n)[column];
      }
    }
    y[r][column] = sum;
  }
  __syncthreads();
}

template <class A>
__device__ __forceinline__ A activate(A h, bool gelu) {
  return gelu ? A(0.5) * h * (A(1) + erf(h * A(0.7071067811865476))) : h < A(0) ? A(0) : h;
}

// x [R, n] through the layer; y [R, n], wide: scratch. constant(r): [n], what attention to the memory adds to row r.
template <int R, class A, class F>
__device__ __forceinline__ void run_layer(const Network<A>& net, int layer, const Cache<A>& cache, const Rows<A>& x,
                                          const Rows<A>& y, const Rows<A>& wide, Shared<int> at, F constant) {
  const Layer<A> w(net, layer);
  const int n = net.n, lane = threadIdx.x % 32;
  const Rows<A> normed{net.pre ? y.data : x.data, x.stride};  // (a choice of structs would go through local memory)
  const auto norm = [&](int r, Rows<A> to, In<A> which) { layer_norm(x[r], to[r], which, net.d, n, net.eps); };
  if (net.pre) {
    each_row<R>([&](int r) { norm(r, y, w.norm1); });
    __syncthreads();
  }
  const A scale = A(1) / sqrt(static_cast<A>(net.d / net.heads));
  linear<R>(normed, w.qkv_w, w.qkv_b, 3 * n, n, [&](int r, int column, A value) {
    if (column < n) {
      wide[r][column] = value * scale;
    } else {
      cached<R>(cache, layer, at[r], column >= 2 * n, r, n)[column % n] = value;
    }
  });
  __syncthreads();
  attend<R>(net, cache, layer, wide, y, at);
  linear<R>(y, w.out_w, w.out_b, n, n, [&](int r, int column, A value) { x[r][column] += value; });
  __syncthreads();
  each_row<R>([&](int r) {
    if (!net.pre) {
      norm(r, x, w.norm1);
    }
    const In<A> constants = constant(r);
    for (int i = lane; constants && i < n; i += 32) {
      x[r][i] += constants[i];
    }
    norm(r, normed, net.pre ? w.norm3 : w.norm2);
  });
  __syncthreads();
  linear<R>(normed, w.w_1, w.b_1, net.units, n,
            [&](int r, int column, A value) { wide[r][column] = activate(value, net.gelu); });
  __syncthreads();
  linear<R>(wide, w.w_2, w.b_2, n, net.units, [&](int r, int column, A value) { x[r][column] += value; });
  __syncthreads();
  if (!net.pre) {
    each_row<R>([&](int r) { norm(r, x, w.norm3); });
    __syncthreads();
  }
}

}  // namespace decoder
