// What the fusion_chain kernel works on; the same type in every instruction set.
#pragma once
#include "cpu/gemm/mlp_args.h"

// step_coefficients [S, 4]: d0, d1, sigma, timestep.
struct FusionChainArgs : MlpChainArgs {
  int64_t guided;    // branches with guidance, 0 to 2: those whose gamma is 0 are left out
  const void* g[2];  // [B, K, C]
  double gamma[2];
  const uint8_t* mask;  // [B, K], nonzero where there is a session
  const void* empty;    // [C]
};

// Elements: packed, and of scratch per thread.
constexpr int64_t fusion_chain_packed(const FusionChainArgs& a) { return mlp_packed(a) + kTileWidth * tiles_of(a.H); }
constexpr int64_t fusion_chain_scratch(const FusionChainArgs& a) {
  const int64_t per_row = kTileWidth * (4 * tiles_of(a.D) + a.K * tiles_of(a.H) + tiles_of(a.C) + 3) + a.D + a.K;
  const int64_t own = kMlpRows * per_row + kTileWidth;
  return own > mlp_scratch(a) ? own : mlp_scratch(a);
}
