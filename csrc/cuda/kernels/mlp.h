// The MLP of a denoiser on a tile of rows in shared memory: W_out silu(W_in x + shift + time) + b_out, x [rows, D].
//
// TensorCoreMlp: WM x WN warps; each has 16 rows and every WN-th group of 16 hidden units. For a group it computes the
// units, SiLU, and what they add to the output, all in registers: the 4 numbers that a lane holds of an accumulator are
// the 4 that it needs as an operand. The warps' shares of the output meet in shared memory. The weights stay in shared
// memory where they fit; else chunks of 16 WN units go through two buffers, one read while the other is filled.
//
// PlainMlp: fp64, and wider D, without tensor cores; a thread has a unit or an output column of all rows.
#pragma once
#include "mma_operands.h"
#include "numbers.h"

namespace mlp {

using mma::Operand;
using mma::Precision;

template <class A, class W>
struct Weights {
  In<W> w_in, w_out;   // TensorCoreMlp: [H, D], [D, H]; PlainMlp: their transposes. D and H are padded by zeros
  In<A> b_out, times;  // [D], [S, H]: what a step adds to the units
  int D, H;
  bool resident;  // all chunks are in shared memory
};

template <class A>
__device__ __forceinline__ A silu(A a) {
  if constexpr (sizeof(A) == 8) {
    return a / (A(1) + exp(-a));
  } else {
    return a * fast_reciprocal(1.0f + fast_exp2(a * -1.442695041f));
  }
}
template <class A>
__device__ __forceinline__ Vec<A, 4> load4(Shared<A> p) {
  if constexpr (sizeof(A) == 4) {
    return load<4>(p);
  } else {
    const Vec<A, 2> a = load<2>(p), b = load<2>(p + 2);
    return {a.v[0], a.v[1], b.v[0], b.v[1]};
  }
}
template <class A>
__device__ __forceinline__ void store4(Shared<A> p, const Vec<A, 4>& x) {
  if constexpr (sizeof(A) == 4) {
    store<4>(p, x);
  } else {
    store<2>(p, Vec<A, 2>{x.v[0], x.v[1]});
    store<2>(p + 2, Vec<A, 2>{x.v[2], x.v[3]});
  }
}

template <int D_, int WM, int WN, Precision P>
struct TensorCoreMlp {
  using A = float;
  using W = typename mma::WeightOf<P>::type;
  static constexpr int D = D_, rows = 16 * WM, threads = 32 * WM * WN, min_blocks = P == mma::kBF16 && D <= 64 ? 2 : 1;
  static constexpr int chunk = 16 * WN, chunk_size = 2 * chunk * D;  // units of a chunk; numbers of both matrices
  static constexpr int x_row = D + 16, share_row = D + 8;            // no bank conflicts
  static constexpr int kIn = D / 16, kOut = D / 8;
  static constexpr bool kHold = D <= 64;  // the state's operands in registers
  static_assert(D % 32 == 0);

  static size_t bytes(int H, bool resident) {
    return (resident ? H / chunk : 2) * chunk_size * sizeof(W) + rows * (x_row + WN * share_row) * 4;
  }

  Weights<float, W> w;
  Shared<W> buffers;
  Shared<float> x, shares;  // [rows, x_row], [WN, rows, share_row]
  int lane, g, t, m, n, chunks, buffer = 0;

  __device__ __forceinline__ TensorCoreMlp(SharedMemory& memory, const Weights<float, W>& w_)
      : w(w_),
        buffers(memory.take<W>((w_.resident ? w_.H / chunk : 2) * chunk_size)),
        x(memory.take<float>(rows * x_row)),
        shares(memory.take<float>(WN * rows * share_row)),
        lane(threadIdx.x % 32),
        g(lane / 4),
        t(lane % 4),
        m(threadIdx.x / 32 / WN),
        n(threadIdx.x / 32 % WN),
        chunks(w_.H / chunk) {
    for (int c = 0; c < (w.resident ? chunks : 1); ++c) {
      copy_chunk(c, c);
    }
    if (w.resident) {
      cp_async_wait<0>();
    }
  }
  __device__ __forceinline__ Shared<float> input(int r) const { return x + r * x_row; }

  // The unit that is column `column` of a group's tile p: a lane's columns 2 t, 2 t + 1 of both tiles are units 4 t,
  // ...
  __device__ static int unit_of(int p, int column) { return column / 2 * 4 + 2 * p + column % 2; }

  // In the order in which lanes read: W_in as [group][half][column of x / 16][lane][4], W_out as [column /
  // 8][group][lane][4].
  __device__ __forceinline__ void copy_chunk(int c, int to) {
    const Shared<W> first = buffers + to * chunk_size, second = first + chunk_size / 2;
    for (int i = threadIdx.x; i < chunk_size / 8; i += threads) {
      const int at = i % 4 * 4, column = i % 32 / 4, tile = i / 32, u = c * chunk;
      const int unit = u + 16 * (tile / kIn / 2) + unit_of(tile / kIn % 2, column);
      cp_async<4>(first + 4 * i, w.w_in + (unit * D + tile % kIn * 16 + at));
      cp_async<4>(second + 4 * i, w.w_out + ((tile / WN * 8 + column) * w.H + u + tile % WN * 16 + at));
    }
    cp_async_commit();
  }

  // Of the units i, i + 1 of both of a group's tiles, to which a and b are added.
  __device__ static __forceinline__ Vec<float, 4> activate(const float (&h)[2][4], int i, const Vec<float, 4>& a,
                                                           const Vec<float, 4>& b) {
    Vec<float, 4> y;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      y.v[j] = silu(h[j / 2][i + j % 2] + (a.v[j] + b.v[j]));
    }
    return y;
  }
  __device__ __forceinline__ Operand<P> state(int k, int row) const {
    return mma::operand<P, true>(load<4>(x + ((16 * m + g + row) * x_row + 16 * k + 4 * t)));
  }

  // From the input, behind a barrier, to the warps' shares of the output, with a barrier. shift(row of the tile) ->
  // [H].
  template <class F>
  __device__ __forceinline__ void run(F shift, In<float> time) {
    const In<float> shift_top = shift(16 * m + g), shift_bottom = shift(16 * m + g + 8);
    float out[kOut][4] = {};
    Operand<P> top[kHold ? kIn : 1], bottom[kHold ? kIn : 1];
    if constexpr (kHold) {
#pragma unroll
      for (int k = 0; k < kIn; ++k) {
        top[k] = state(k, 0), bottom[k] = state(k, 8);
      }
    }
    for (int c = 0; c < chunks; ++c) {
      if (!w.resident) {
        cp_async_wait<0>();
        __syncthreads();
        copy_chunk(c + 1 < chunks ? c + 1 : 0, buffer ^ 1);
      }
      const Shared<W> first = buffers + (w.resident ? c : buffer) * chunk_size, second = first + chunk_size / 2;
      const int at = c * chunk + 16 * n + 4 * t;
      const Vec<float, 4> step = load<4>(time + at), up = load<4>(shift_top + at), down = load<4>(shift_bottom + at);
      float h[2][4] = {};  // the group's two tiles
#pragma unroll
      for (int k = 0; k < kIn; ++k) {
        if constexpr (!kHold) {
          top[0] = state(k, 0), bottom[0] = state(k, 8);
        }
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          mma::multiply<P>(h[p], top[kHold ? k : 0], bottom[kHold ? k : 0],
                           mma::operand<P>(load<4>(first + 4 * (((2 * n + p) * kIn + k) * 32 + lane))));
        }
      }
      const Operand<P> h_top = mma::operand<P, true>(activate(h, 0, up, step));
      const Operand<P> h_bottom = mma::operand<P, true>(activate(h, 2, down, step));
#pragma unroll
      for (int i = 0; i < kOut; ++i) {
        float sum[4] = {};  // of the group alone: tensor cores round towards zero, which over many groups would add up
        mma::multiply<P>(sum, h_top, h_bottom, mma::operand<P>(load<4>(second + 4 * ((i * WN + n) * 32 + lane))));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          out[i][j] += sum[j];
        }
      }
      buffer ^= 1;
    }
    const Shared<float> share = shares + (((n * WM + m) * 16 + g) * share_row + 2 * t);
#pragma unroll
    for (int i = 0; i < kOut; ++i) {
      store<2>(share + 8 * i, Vec<float, 2>{out[i][0], out[i][1]});
      store<2>(share + (8 * share_row + 8 * i), Vec<float, 2>{out[i][2], out[i][3]});
    }
    __syncthreads();
  }
  __device__ __forceinline__ Vec<float, 4> output(int r, int d) const {
    Vec<float, 4> out = load<4>(w.b_out + d);
#pragma unroll
    for (int i = 0; i < WN; ++i) {
      const Vec<float, 4> share = load<4>(shares + ((i * rows + r) * share_row + d));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        out.v[j] += share.v[j];
      }
    }
    return out;
  }
  __device__ __forceinline__ void finish() { cp_async_wait<0>(); }
};

template <class A_, int R>
struct PlainMlp {
  using A = A_;
  using W = A_;
  static constexpr int rows = R, threads = 256, min_blocks = 1;
  static size_t bytes(int D, int H) { return (2 * D + H + 2) * R * sizeof(A) + 32; }

  Weights<A, A> w;
  Shared<A> x, y, hidden;  // [rows, D], the output likewise, [rows, H]

  __device__ __forceinline__ PlainMlp(SharedMemory& memory, const Weights<A, A>& w_)
      : w(w_), x(memory.take<A>(R * w_.D)), y(memory.take<A>(R * w_.D)), hidden(memory.take<A>(R * w_.H)) {}
  __device__ __forceinline__ Shared<A> input(int r) const { return x + r * w.D; }
  template <class F>
  __device__ __forceinline__ void run(F shift, In<A> time) {
    for (int h = threadIdx.x; h < w.H; h += threads) {
      A a[R];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        a[r] = shift(r)[h] + time[h];
      }
      multiply(a, x, w.w_in + h, w.D, w.H);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        hidden[r * w.H + h] = silu(a[r]);
      }
    }
    __syncthreads();
    for (int d = threadIdx.x; d < w.D; d += threads) {
      A a[R];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        a[r] = w.b_out[d];
      }
      multiply(a, hidden, w.w_out + d, w.H, w.D);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        y[r * w.D + d] = a[r];
      }
    }
    __syncthreads();
  }
  // a [R] += left [R, n] column [n], whose numbers lie `stride` apart.
  __device__ __forceinline__ static void multiply(A (&a)[R], Shared<A> left, In<A> column, int n, int stride) {
    for (int k = 0; k < n; ++k) {
      const A weight = column[static_cast<int64_t>(k) * stride];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        a[r] += left[r * n + k] * weight;
      }
    }
  }
  __device__ __forceinline__ Vec<A, 4> output(int r, int d) const { return load4<A>(y + (r * w.D + d)); }
  __device__ __forceinline__ void finish() {}
};

}  // namespace mlp
