// What the pinball loss's kernels work on; the same type in every instruction set. All arrays are of one dtype, and
// contiguous but for the step of the levels.
#pragma once
#include <cstdint>

struct PinballArgs {
  bool is_double;  // else fp32
  int64_t L;
  int64_t level_step;  // from row to row of the levels: L, or 0 where all rows are one
  const void* q;       // [B, L]
  const void* y;       // [B]
  const void* levels;  // [B, L]
  void* out;           // forward: [B, L]
  const void* g;       // backward: [B, L], or null for zeros
  void* g_q;           // [B, L] or null
  void* g_y;           // [B] or null
};
