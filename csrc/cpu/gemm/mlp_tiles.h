// An MLPDenoiser's weights in tiles, what every timestep adds to its hidden layer, and the noise of a block of rows:
// shared by the ops that run whole chains of it.
#pragma once
#include "cpu/gemm/gemm_tile.h"
#include "cpu/gemm/mlp_args.h"
#include "cpu/simd/silu.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
void random_normal(const int64_t* rows, const int64_t* draws, int64_t draw, int64_t seed, int64_t step, int64_t width,
                   float* out, int64_t begin, int64_t end);  // ops/rng.h
namespace {

template <class T, class Args>  // Args: an MlpArgs
struct Mlp {
  static constexpr int64_t R = kMlpRows;
  const Args& a;
  const int64_t Db = tiles_of(a.D), Hb = tiles_of(a.H), Cb = tiles_of(a.C), Eb = tiles_of(a.E);
  T* const w_in = (T*)a.shared;                                  // [Hb][Db] tiles
  T* const w_out = w_in + Hb * Db * kTileWidth * kTileWidth;     // [Hb][Db]: of one block of hidden units side by side
  T* const w_cond = w_out + Hb * Db * kTileWidth * kTileWidth;   // [Hb][Cb]
  T* const w_time = w_cond + Hb * Cb * kTileWidth * kTileWidth;  // [Hb][Eb]
  T* const times = w_time + Hb * Eb * kTileWidth * kTileWidth;   // [S][Hb 64]
  T* const bias = times + a.S * Hb * kTileWidth;                 // [Db 64], zeros behind
  T* const first_bias = bias + Db * kTileWidth;                  // [Hb 64], zeros behind

  // Once per call: the weights in tiles, and what every timestep adds to the hidden layer, W_t e(t) + b.
  void prepare(T* scratch) const {
    const int64_t H = a.H, D = a.D, E = a.E;
    pack((const T*)a.w_in, D + E, H, D, w_in);
    for (int64_t j = 0; j < Hb; ++j) {  // tiles of W_o: [Hb][Db]
      for (int64_t i = 0; i < Db; ++i) {
        pack((const T*)a.w_out + i * kTileWidth * H + j * kTileWidth, H, tile_columns(D, i), tile_columns(H, j),
             w_out + (j * Db + i) * kTileWidth * kTileWidth);
      }
    }
    pack((const T*)a.w_cond, a.C, H, a.C, w_cond);
    pack((const T*)a.w_in + D, D + E, H, E, w_time);
    __builtin_memset(bias, 0, Db * kTileWidth * sizeof(T));
    __builtin_memcpy(bias, a.b_out, D * sizeof(T));
    __builtin_memset(first_bias, 0, Hb * kTileWidth * sizeof(T));
    __builtin_memcpy(first_bias, a.b_in, H * sizeof(T));
    T* const made = scratch + R * Eb * kTileWidth;
    for (int64_t s = 0; s < a.S; s += R) {
      const int64_t n = a.S - s < R ? a.S - s : R;
      to_tiles((const T*)a.embedding + s * E, n, E, scratch);
      for (int64_t j = 0; j < Hb; ++j) {
        for (int64_t i = 0; i < Eb; ++i) {
          multiply_tile<T>(n, scratch + i * n * kTileWidth, w_time + (j * Eb + i) * kTileWidth * kTileWidth,
                           tile_columns(E, i), i ? made : first_bias + j * kTileWidth, i ? kTileWidth : 0, nullptr,
                           made, kTileWidth);
        }
        for (int64_t r = 0; r < n; ++r) {
          __builtin_memcpy(times + ((s + r) * Hb + j) * kTileWidth, made + r * kTileWidth, kTileWidth * sizeof(T));
        }
      }
    }
  }
};

// The noise of n rows at a timestep, [n, D] and room behind.
template <class T>
static void generate_noise(const int64_t* rows, const int64_t* draws, uint64_t seed, double step, int64_t D, int64_t n,
                           T* to) {
  float* const made = (float*)to;
  random_normal(rows, draws, 0, (int64_t)seed, (int64_t)step, D, made, 0, n);
  if constexpr (sizeof(T) == 8) {
    for (int64_t i = n * D; i-- > 0;) {  // in place, from the end
      float v;
      __builtin_memcpy(&v, made + i, sizeof v);
      to[i] = v;
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
