// What the CRPS kernels work on; the same type in every instruction set. All arrays are contiguous and of one dtype.
#pragma once
#include <cstdint>

struct CrpsArgs {
  bool is_double;  // else fp32
  int64_t L;
  double per_pair;      // 1 / L^2, or the fair estimator's 1 / (L (L - 1))
  const void* samples;  // [B, L]
  const void* y;        // [B]
  void* value;          // [B]
  void* slopes;         // [B, L]: of the value by each sample; or null
};

struct CrpsBackwardArgs {
  bool is_double;
  int64_t L;
  const void* slopes;  // [B, L]
  const void* g;       // [B]
  void* g_samples;     // [B, L] or null
  void* g_y;           // [B] or null
};

// Bytes of a thread's scratch: a tile of L rows of eight keys, then L numbers.
constexpr int64_t crps_scratch(const CrpsArgs& a) { return a.L * (8 * (a.is_double ? 16 : 8) + (a.is_double ? 8 : 4)); }
