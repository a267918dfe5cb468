// What the fusion_chain kernel works on; the same type in every instruction set.
#pragma once
#include "cpu/gemm/mlp_args.h"

// Everything in the compute type (float, or double), contiguous.
struct FusionArgs : MlpArgs {
  int64_t B, K;
  int64_t guided;    // branches with guidance, 0 to 2: those whose gamma is 0 are left out
  const void* g[2];  // [B, K, C]
  double gamma[2];
  const void* x;                      // [B, D]
  const uint8_t* mask;                // [B, K], nonzero where there is a session
  const void* empty;                  // [C]
  const double* numbers;              // [S, 4]: d0, d1, sigma, timestep
  const void* noise;                  // [S, B, D] or null
  bool made;                          // noise made here, of these rows and draws
  const int64_t *row_ids, *draw_ids;  // [B]; draw_ids may be null: draw 0
  uint64_t seed;
  void* x_0;  // [B, D]
};

// Elements: shared, and per thread.
constexpr int64_t fusion_shared(const FusionArgs& a) { return mlp_shared(a) + kTileWidth * tiles_of(a.H); }
constexpr int64_t fusion_scratch(const FusionArgs& a) {
  const int64_t Db = tiles_of(a.D),
                own = kMlpRows * (kTileWidth * (4 * Db + a.K * tiles_of(a.H) + tiles_of(a.C) + 3) + a.D + a.K) +
                      kTileWidth;
  return own > mlp_scratch(a) ? own : mlp_scratch(a);
}
