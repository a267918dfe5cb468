// An MLPDenoiser's weights in tiles, what every timestep adds to its hidden layer, and the noise of a block of rows:
// shared by the ops that run whole chains of it.
#pragma once
#include "cpu/gemm/mlp_args.h"
#include "cpu/gemm/tile_product.h"
#include "cpu/ops/rng_args.h"
#include "cpu/simd/silu.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <class T, class Args>  // Args: an MlpChainArgs
struct Mlp {
  static constexpr int64_t R = kMlpRows;
  const Args& a;
  const int64_t d_tiles = tiles_of(a.D), h_tiles = tiles_of(a.H), c_tiles = tiles_of(a.C), e_tiles = tiles_of(a.E);
  T* const w_in = (T*)a.packed;                              // [h_tiles][d_tiles] tiles
  T* const w_out = w_in + h_tiles * d_tiles * kTileSize;     // [h_tiles][d_tiles]: those of a hidden tile side by side
  T* const w_cond = w_out + h_tiles * d_tiles * kTileSize;   // [h_tiles][c_tiles]
  T* const w_time = w_cond + h_tiles * c_tiles * kTileSize;  // [h_tiles][e_tiles]
  T* const times = w_time + h_tiles * e_tiles * kTileSize;   // [S][h_tiles 64], W_t e(t) + b_in
  T* const b_out = times + a.S * h_tiles * kTileWidth;       // [d_tiles 64], zero-padded
  T* const b_in = b_out + d_tiles * kTileWidth;              // [h_tiles 64], zero-padded

  // Once per call.
  void pack_weights(T* scratch) const {
    const int64_t H = a.H, D = a.D, E = a.E;
    pack_tiles((const T*)a.w_in, D + E, H, D, w_in);
    for (int64_t j = 0; j < h_tiles; ++j) {
      for (int64_t i = 0; i < d_tiles; ++i) {
        pack_tiles((const T*)a.w_out + i * kTileWidth * H + j * kTileWidth, H, tile_columns(D, i), tile_columns(H, j),
                   w_out + (j * d_tiles + i) * kTileSize);
      }
    }
    pack_tiles((const T*)a.w_cond, a.C, H, a.C, w_cond);
    pack_tiles((const T*)a.w_in + D, D + E, H, E, w_time);
    __builtin_memset(b_out, 0, d_tiles * kTileWidth * sizeof(T));
    __builtin_memcpy(b_out, a.b_out, D * sizeof(T));
    __builtin_memset(b_in, 0, h_tiles * kTileWidth * sizeof(T));
    __builtin_memcpy(b_in, a.b_in, H * sizeof(T));
    tabulate_times(scratch);
  }

  // What every timestep adds to the hidden layer.
  void tabulate_times(T* scratch) const {
    T* const sums = scratch + R * e_tiles * kTileWidth;  // [n, 64]
    for (int64_t s = 0; s < a.S; s += R) {
      const int64_t n = a.S - s < R ? a.S - s : R;
      to_tiles((const T*)a.embedding + s * a.E, n, a.E, scratch);
      for (int64_t j = 0; j < h_tiles; ++j) {
        multiply_tiles<T>(n, {scratch, n * kTileWidth, a.E}, w_time + j * e_tiles * kTileSize, {b_in + j * kTileWidth},
                          sums, kTileWidth);
        for (int64_t r = 0; r < n; ++r) {
          __builtin_memcpy(times + ((s + r) * h_tiles + j) * kTileWidth, sums + r * kTileWidth, kTileWidth * sizeof(T));
        }
      }
    }
  }

  // W_c of n conditions in tiles, [c_tiles][n, 64]; to(hidden tile) is where its n rows go.
  template <class F>
  void project_conditions(int64_t n, const T* conditions, F to) const {
    static const T zeros[kTileWidth] = {};
    for (int64_t j = 0; j < h_tiles; ++j) {
      multiply_tiles<T>(n, {conditions, n * kTileWidth, a.C}, w_cond + j * c_tiles * kTileSize, {zeros}, to(j),
                        kTileWidth);
    }
  }
};

// Generated noise of n rows at a timestep, [n, D]; a vector more may be read past it.
template <class T>
static void generate_noise(const int64_t* rows, const int64_t* draws, uint64_t seed, double step, int64_t D, int64_t n,
                           T* to) {
  float* const floats = (float*)to;
  random_normal({rows, draws, 0, (int64_t)seed, (int64_t)step, D, floats}, 0, n);
  if constexpr (sizeof(T) == 8) {
    for (int64_t i = n * D; i-- > 0;) {  // in place, from the end
      float v;
      __builtin_memcpy(&v, floats + i, sizeof v);
      to[i] = v;
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
