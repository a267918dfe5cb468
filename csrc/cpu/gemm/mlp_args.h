// An MLPDenoiser and a whole reverse chain of it, as the kernels get them; the same types in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/gemm/gemm_tile_size.h"

// Everything in the compute type (float, or double), contiguous.
struct MlpArgs {
  bool is_double;
  int64_t D, C, H, E, S;      // of the latent, condition, hidden layer, time embedding; timesteps
  const void *w_in, *b_in;    // [H, D + E] the latent's columns, then the time's; [H]
  const void* w_cond;         // [H, C]
  const void *w_out, *b_out;  // [D, H], [D]
  const void* embedding;      // [S, E]
  void* packed;               // mlp_packed elements, filled once per call
};

// B rows through all timesteps.
struct MlpChainArgs : MlpArgs {
  int64_t B, K;
  const void* x;                      // [B, D]
  const double* step_coefficients;    // [S, coefficients of the op]
  const void* noise;                  // [S, B, D], or null: none, or generated
  bool generate_noise;                // of these rows and draws
  const int64_t *row_ids, *draw_ids;  // [B]; draw_ids may be null: draw 0
  uint64_t seed;
  void* x_0;  // [B, D]
};

constexpr int64_t kMlpRows = 48;  // most rows that go through the steps together

// Elements: the weights in tiles, the table of steps, the biases; and what filling it takes.
constexpr int64_t mlp_packed(const MlpArgs& a) {
  const int64_t d_tiles = tiles_of(a.D), h_tiles = tiles_of(a.H);
  return kTileWidth *
         (kTileWidth * h_tiles * (2 * d_tiles + tiles_of(a.C) + tiles_of(a.E)) + a.S * h_tiles + d_tiles + h_tiles);
}
constexpr int64_t mlp_scratch(const MlpArgs& a) { return kMlpRows * kTileWidth * (tiles_of(a.E) + 1); }
