// What the denoise_chain kernel works on; the same type in every instruction set.
#pragma once
#include "cpu/gemm/mlp_args.h"

// step_coefficients [S, 8]: c0, c1, d0, d1, d2, sigma, timestep, place among the aligned ones or -1.
struct DenoiseChainArgs : MlpChainArgs {
  bool pairs;        // the weights are bf16 numbers, and multiplied so (AVX-512 BF16)
  const void* cond;  // [B, C]
  double clip;
  void* states;  // [B, K, D]
};

// Elements that are packed: an MlpArgs', then both matrices in pairs.
constexpr int64_t denoise_chain_packed(const DenoiseChainArgs& a) {
  return mlp_packed(a) + (a.pairs ? kTileWidth * kTileWidth * tiles_of(a.H) * tiles_of(a.D) : 0);
}

// Elements of scratch per thread; x and h in pairs come last.
constexpr int64_t denoise_chain_unpaired_scratch(const DenoiseChainArgs& a) {
  const int64_t widest = tiles_of(a.C) > tiles_of(a.E) ? tiles_of(a.C) : tiles_of(a.E);
  return kMlpRows * (kTileWidth * (2 * tiles_of(a.D) + tiles_of(a.H) + 1 + widest) + a.D) + kTileWidth;
}
constexpr int64_t denoise_chain_scratch(const DenoiseChainArgs& a) {
  return denoise_chain_unpaired_scratch(a) +
         (a.pairs ? kMlpRows * kTileWidth / 2 * (tiles_of(a.D) + tiles_of(a.H)) : 0);
}
