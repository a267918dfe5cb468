// What the interval score's kernels work on; the same type in every instruction set. All arrays are of one dtype, [B],
// contiguous.
#pragma once

struct IntervalScoreArgs {
  bool is_double;  // else fp32
  double rate;     // of what lies outside: 2 / (1 - level)
  const void *lower, *upper, *y;
  void* out;                      // forward
  const void* g;                  // backward
  void *g_lower, *g_upper, *g_y;  // null: not wanted
};
