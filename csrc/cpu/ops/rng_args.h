// What the noise kernels work on; the same type in every instruction set. Kernels of other ops that generate noise for
// their own rows call them too.
#pragma once
#include <cstdint>

struct NoiseArgs {
  const int64_t* row_ids;   // [B]
  const int64_t* draw_ids;  // [B], or null: all are `draw`
  int64_t draw, seed, step, width;
  float* out;  // [B, width]
};

#ifdef ORD_ISA
namespace ORD_ISA {
void random_normal(const NoiseArgs& a, int64_t begin, int64_t end);
void random_uniform(const NoiseArgs& a, int64_t begin, int64_t end);
}  // namespace ORD_ISA
#endif
