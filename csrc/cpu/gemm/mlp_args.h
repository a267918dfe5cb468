// The weights of an MLPDenoiser as its kernels get them; the same type in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/gemm/gemm_tile_size.h"

// Everything in the compute type (float, or double), contiguous.
struct MlpArgs {
  bool is_double;             // double
  int64_t D, C, H, E, S;      // of the latent, condition, hidden layer, time embedding; timesteps
  const void *w_in, *b_in;    // [H, D + E] the latent's columns, then the time's; [H]
  const void* w_cond;         // [H, C]
  const void *w_out, *b_out;  // [D, H], [D]
  const void* embedding;      // [S, E]
  void* shared;               // mlp_shared elements, filled once per call
};

constexpr int64_t kMlpRows = 48;  // most rows that go through the steps together

// Elements: the weights in tiles, the table of steps, the biases; and what filling it takes.
constexpr int64_t mlp_shared(const MlpArgs& a) {
  const int64_t Db = tiles_of(a.D), Hb = tiles_of(a.H);
  return kTileWidth * (kTileWidth * Hb * (2 * Db + tiles_of(a.C) + tiles_of(a.E)) + a.S * Hb + Db + Hb);
}
constexpr int64_t mlp_scratch(const MlpArgs& a) { return kMlpRows * kTileWidth * (tiles_of(a.E) + 1); }
