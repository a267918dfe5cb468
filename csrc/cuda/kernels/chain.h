// Reverse chains: a block takes tiles of rows through all S steps (persistent: the weights are loaded once).
//
// Between two runs of the MLP a thread updates four neighbouring columns of a row: one block of Philox, one 16-byte
// store.
#pragma once
#include "../noise.h"
#include "mlp.h"

namespace chain {

template <class A>
struct Noise {                    // of a step, added where its sigma is not 0
  In<A> given;                    // [S, all_rows, D] or null
  In<int64_t> row_ids, draw_ids;  // [B] or null
  uint64_t seed;
};

// D is the width in memory, which need not be a multiple of four; in shared memory it is padded by zeros.
template <class A>
__device__ __forceinline__ Vec<A, 4> load_columns(In<A> row, int d, int D) {
  if (sizeof(A) == 4 && D % 4 == 0) {
    return d < D ? load<4>(row + d) : Vec<A, 4>{};
  }
  Vec<A, 4> x{};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    x.v[j] = d + j < D ? static_cast<A>(row[d + j]) : A(0);
  }
  return x;
}
template <class A>
__device__ __forceinline__ void store_columns(Out<A> row, int d, int D, const Vec<A, 4>& x) {
  if (sizeof(A) == 4 && D % 4 == 0) {
    if (d < D) {
      store<4>(row + d, x);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (d + j < D) {
      row[d + j] = x.v[j];
    }
  }
}

// Numbers d, ..., d + 3 of a draw of width D, which starts at number draw D of the stream: perhaps within a block of
// four.
__device__ __forceinline__ Vec<float, 4> draw_columns(const Noise<float>& n, int64_t row, uint32_t step, int d, int D) {
  const int64_t draw = n.draw_ids ? static_cast<int64_t>(n.draw_ids[row]) : 0;
  if (draw < 0 || draw > (INT64_C(4294967297) - D) / D) {
    return {NAN, NAN, NAN, NAN};
  }
  const uint64_t stream = n.row_ids[row], first = static_cast<uint64_t>(draw) * D + d;
  const Vec<float, 4> xi = noise::normal4(stream, step, static_cast<uint32_t>(first / 4), n.seed);
  const int skip = first % 4;
  if (skip == 0) {
    return xi;
  }
  const Vec<float, 4> next = noise::normal4(stream, step, static_cast<uint32_t>(first / 4 + 1), n.seed);
  Vec<float, 4> shifted;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    shifted.v[j] = skip == 1   ? (j < 3 ? xi.v[(j + 1) % 4] : next.v[(j + 1) % 4])
                   : skip == 2 ? (j < 2 ? xi.v[(j + 2) % 4] : next.v[(j + 2) % 4])
                               : (j < 1 ? xi.v[(j + 3) % 4] : next.v[(j + 3) % 4]);
  }
  return shifted;
}
template <class A>
__device__ __forceinline__ void add_noise(Vec<A, 4>& x, A sigma, const Noise<A>& n, int64_t at, int64_t row,
                                          int64_t step, int d, int D) {
  if (sigma == A(0)) {
    return;
  }
  Vec<A, 4> xi{};
  if (n.given) {
    xi = load_columns<A>(n.given + at * D, d, D);
  } else if (n.row_ids) {
    const Vec<float, 4> drawn =
        draw_columns({{}, n.row_ids, n.draw_ids, n.seed}, row, static_cast<uint32_t>(step), d, D);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      xi.v[j] = drawn.v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    x.v[j] += sigma * xi.v[j];
  }
}

// f(row of the tile, column) of this thread's groups of four columns.
template <class Mlp, class F>
__device__ __forceinline__ void each_group(int D, F f) {
  const int width = D / 4;
  for (int i = threadIdx.x; i < Mlp::rows * width; i += Mlp::threads) {
    f(i / width, i % width * 4);
  }
}

template <class A>
struct Denoise {
  In<A> x_T, shift;              // [B, D], [B, H]: what the condition adds to the units
  In<double> step_coefficients;  // [S, 8]: c0, c1, d0, d1, d2, sigma, timestep, place among the aligned ones or -1
  Noise<A> noise;
  Out<A> x_0, states;  // [B, D], [B, K, D]
  int64_t B;
  int D, S, K;
  A clip;
};

template <class Mlp, class A = typename Mlp::A>
__global__ void __launch_bounds__(Mlp::threads, Mlp::min_blocks)
    denoise_chain_kernel(const Denoise<A> a, const mlp::Weights<A, typename Mlp::W> w) {
  SharedMemory memory;
  Mlp net(memory, w);
  for (int64_t r0 = static_cast<int64_t>(blockIdx.x) * Mlp::rows; r0 < a.B;
       r0 += static_cast<int64_t>(gridDim.x) * Mlp::rows) {
    each_group<Mlp>(w.D, [&](int r, int d) {
      const bool inside = r0 + r < a.B;
      mlp::store4<A>(net.input(r) + d, inside ? load_columns<A>(a.x_T + (r0 + r) * a.D, d, a.D) : Vec<A, 4>{});
    });
    __syncthreads();
    for (int s = 0; s < a.S; ++s) {
      const auto shift_of = [&](int r) {  // rows past the end compute what nobody stores
        return a.shift + (r0 + r < a.B ? r0 + r : a.B - 1) * w.H;
      };
      net.run(shift_of, w.times + static_cast<int64_t>(s) * w.H);
      const In<double> c = a.step_coefficients + 8 * s;
      const A c0 = c[0], c1 = c[1], d0 = c[2], d1 = c[3], d2 = c[4], sigma = c[5];
      const int64_t timestep = c[6], place = c[7];
      const bool only_output = c0 == A(0) && c1 == A(1);  // 0 x would make NaN of an infinite x
      each_group<Mlp>(w.D, [&](int r, int d) {
        const int64_t row = r0 + r;
        if (row >= a.B) {
          return;
        }
        const Vec<A, 4> out = net.output(r, d);
        Vec<A, 4> y = mlp::load4<A>(net.input(r) + d), x0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          A e = only_output ? out.v[j] : c0 * y.v[j] + c1 * out.v[j];
          e = e < -a.clip ? -a.clip : e;  // NaN goes through
          x0.v[j] = e > a.clip ? a.clip : e;
          y.v[j] = d0 * x0.v[j] + d1 * y.v[j] + d2 * out.v[j];
        }
        add_noise(y, sigma, a.noise, s * a.B + row, row, timestep, d, a.D);
        mlp::store4<A>(net.input(r) + d, y);
        if (place >= 0) {
          store_columns<A>(a.states + (row * a.K + place) * a.D, d, a.D, x0);
        }
        if (s == a.S - 1) {
          store_columns<A>(a.x_0 + row * a.D, d, a.D, y);
        }
      });
      __syncthreads();
    }
  }
  net.finish();
}

template <class A>
struct Fusion {
  In<A> h_long, empty, shift;  // [B, D], [H], [branches - 1, B, K, H]: what the guidance of a session adds to the units
  In<bool> mask;               // [B, K]
  In<double> step_coefficients;  // [S, 4]: d0, d1, sigma, timestep
  Noise<A> noise;                // given: [S, all_rows, D], of which these rows are a part
  Out<A> x_0;                    // [B, D]
  int64_t B, all_rows;
  int D, S, K, branches;
  A w_un, w_1, w_2;  // weights of the branches in the combination
};

// In shared memory also the state x and the combination f, of which each thread touches its own columns alone.
template <class Mlp, class A = typename Mlp::A>
__global__ void __launch_bounds__(Mlp::threads, Mlp::min_blocks)
    fusion_chain_kernel(const Fusion<A> a, const mlp::Weights<A, typename Mlp::W> w) {
  SharedMemory memory;
  Mlp net(memory, w);
  const Shared<A> x = memory.take<A>(Mlp::rows * w.D), f = memory.take<A>(Mlp::rows * w.D);
  for (int64_t r0 = static_cast<int64_t>(blockIdx.x) * Mlp::rows; r0 < a.B;
       r0 += static_cast<int64_t>(gridDim.x) * Mlp::rows) {
    const auto present = [&](int k) {  // bit r: row r of the tile has session k; the same in every warp
      const int r = threadIdx.x % 32;
      return __ballot_sync(kAll, r < Mlp::rows && r0 + r < a.B && a.mask[(r0 + r) * a.K + k]);
    };
    uint32_t with_sessions = 0;
    for (int k = 0; k < a.K; ++k) {
      with_sessions |= present(k);
    }
    each_group<Mlp>(w.D, [&](int r, int d) {
      const bool inside = r0 + r < a.B;
      mlp::store4<A>(x + (r * w.D + d), inside ? load_columns<A>(a.h_long + (r0 + r) * a.D, d, a.D) : Vec<A, 4>{});
    });
    const int first = a.w_un == A(0);  // no branch without guidance where that has no weight
    for (int s = 0; s < a.S && with_sessions; ++s) {
      for (int c = first; c < a.branches; ++c) {
        each_group<Mlp>(w.D, [&](int r, int d) { mlp::store4<A>(net.input(r) + d, mlp::load4<A>(x + (r * w.D + d))); });
        for (int k = 0; k < a.K; ++k) {
          const uint32_t rows = present(k);
          if (!rows) {
            continue;
          }
          __syncthreads();
          const auto shift_of = [&](int r) {
            const int64_t row = r0 + r < a.B ? r0 + r : a.B - 1;
            return c == 0 ? a.empty : a.shift + (((c - 1) * a.B + row) * a.K + k) * w.H;
          };
          net.run(shift_of, w.times + static_cast<int64_t>(s) * w.H);
          each_group<Mlp>(w.D, [&](int r, int d) {
            if (rows >> r & 1) {
              mlp::store4<A>(net.input(r) + d, net.output(r, d));
            }
          });
        }
        each_group<Mlp>(w.D, [&](int r, int d) {
          const Vec<A, 4> y = mlp::load4<A>(net.input(r) + d);
          Vec<A, 4> sum = c == first ? Vec<A, 4>{} : mlp::load4<A>(f + (r * w.D + d));
          const A weight = c == 0 ? a.w_un : c == 1 ? a.w_1 : a.w_2;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sum.v[j] += weight * y.v[j];
          }
          mlp::store4<A>(f + (r * w.D + d), sum);
        });
      }
      const In<double> n = a.step_coefficients + 4 * s;
      const A d0 = n[0], d1 = n[1], sigma = n[2];
      const int64_t timestep = n[3];
      each_group<Mlp>(w.D, [&](int r, int d) {
        if (!(with_sessions >> r & 1)) {
          return;  // stays as it is, bit for bit
        }
        const Vec<A, 4> sum = mlp::load4<A>(f + (r * w.D + d));
        Vec<A, 4> y = mlp::load4<A>(x + (r * w.D + d));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          y.v[j] = d0 * sum.v[j] + d1 * y.v[j];
        }
        add_noise(y, sigma, a.noise, s * a.all_rows + (r0 + r), r0 + r, timestep, d, a.D);
        mlp::store4<A>(x + (r * w.D + d), y);
      });
    }
    each_group<Mlp>(w.D, [&](int r, int d) {
      if (r0 + r < a.B) {
        store_columns<A>(a.x_0 + (r0 + r) * a.D, d, a.D, mlp::load4<A>(x + (r * w.D + d)));
      }
    });
    __syncthreads();  // before the next tile's rows
  }
  net.finish();
}

}  // namespace chain
