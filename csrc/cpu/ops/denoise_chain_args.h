// What the denoise_chain kernel works on; the same type in every instruction set.
#pragma once
#include "cpu/gemm/mlp_args.h"

// Everything in the compute type (float, or double), contiguous unless a stride is given.
struct ChainArgs : MlpArgs {
  bool pairs;  // the weights are bf16 numbers, and multiplied so (AVX-512 BF16)
  int64_t B, K;
  const void *x, *cond;               // [B, D], [B, C]
  const double* numbers;              // [S, 8]: c0, c1, d0, d1, d2, sigma, timestep, place among the aligned ones or -1
  const void* noise;                  // [S, B, D] or null
  bool made;                          // noise made here, of these rows and draws
  const int64_t *row_ids, *draw_ids;  // [B]; draw_ids may be null: draw 0
  uint64_t seed;
  double clip;
  void *x_0, *states;  // [B, D], [B, K, D]
};

// Elements of what is shared: an MlpArgs', then both matrices in pairs.
constexpr int64_t chain_shared(const ChainArgs& a) {
  return mlp_shared(a) + (a.pairs ? kTileWidth * kTileWidth * tiles_of(a.H) * tiles_of(a.D) : 0);
}

// Elements per thread; with x and h in pairs.
constexpr int64_t chain_scratch_alone(const ChainArgs& a) {
  const int64_t widest = tiles_of(a.C) > tiles_of(a.E) ? tiles_of(a.C) : tiles_of(a.E);
  return kMlpRows * (kTileWidth * (2 * tiles_of(a.D) + tiles_of(a.H) + 1 + widest) + a.D) + kTileWidth;
}
constexpr int64_t chain_scratch(const ChainArgs& a) {
  return chain_scratch_alone(a) + (a.pairs ? kMlpRows * kTileWidth / 2 * (tiles_of(a.D) + tiles_of(a.H)) : 0);
}
