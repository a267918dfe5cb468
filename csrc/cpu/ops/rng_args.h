// What the noise kernels work on; the same type in every instruction set.
#pragma once
#include <cstdint>

struct NoiseArgs {
  const int64_t* row_ids;   // [B]
  const int64_t* draw_ids;  // [B], or null: all are `draw`
  int64_t draw, seed, step, width;
  float* out;  // [B, width]
};
