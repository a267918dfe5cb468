// What the Wasserstein quantile loss's kernels work on; the same type in every instruction set. All arrays are
// contiguous; those of the compute type are fp64 where the storage type is, else fp32.
#pragma once
#include <cstdint>

#include "cpu/dtype.h"

struct WassersteinArgs {
  DType dtype;  // storage type
  int64_t L;
  const void *samples, *q_user, *q_item;  // [B, L], storage type
  const void* lam;                        // [B], compute type
  void* loss;                             // [B], storage type
  void* slope;                            // [B], compute type: of the loss by lam
  uint8_t* signs;                         // [B, 2, L], by rank and by place; or null
};

struct WassersteinBackwardArgs {
  DType dtype;  // storage type
  int64_t L;
  const uint8_t* signs;                   // [B, 2, L]
  const void *slope, *lam;                // [B], compute type
  const void* g;                          // [B], storage type
  void *g_samples, *g_q_user, *g_q_item;  // [B, L], storage type; or null
  void* g_lam;                            // [B], compute type; or null
};

// Bytes of a thread's scratch: a tile of L rows of eight keys, then one row's keys.
constexpr int64_t wasserstein_scratch(const WassersteinArgs& a) { return 9 * a.L * (a.dtype == DType::f64 ? 16 : 8); }
