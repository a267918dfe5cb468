// What the torch side and the kernels of value_tokens share.
#pragma once
#include <cstdint>

#include "common/declare_kernel.h"
#include "cpu/dtype.h"

namespace value_tokens {

struct Args {
  DType type;          // of the logits
  bool wide;           // 16-bit logits, the rest in fp32
  const void* logits;  // [R, V]
  const void* table;   // in the compute type: the embedding [V, P], or values [P]; zeros behind
  const void* g;       // [R, E] or [R]
  void* out;           // [R, E] or [R]
  void* g_logits;      // [R, V] or null
  int64_t R, V, E;
  int64_t P;      // E, or V for values, in whole vectors of any instruction set
  int64_t half;   // window // 2, or -1: the whole vocabulary
  int64_t first;  // first value token
  // of the whole vocabulary alone:
  const void* transposed;  // the embedding [E, padded V], for the backward
  int64_t block;           // rows a product takes at once
};
constexpr int kTile = 6;    // rows of the products' inner loops
constexpr int kBlock = 48;  // at most as many at once

inline int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
inline int64_t scratch_size(const Args& a) {
  return a.half < 0 ? a.block * (2 * padded(a.V) + a.P) : 2 * padded(a.V + 16) + padded(a.E);
}

}  // namespace value_tokens

// scratch: of the compute type, `scratch_size` elements. sums [V, P] or [P] (or null): a block of rows leaves its part
// of the table's gradient there; it is zero before. `part` is as large, of the compute type, zero before and after.
ORD_DECLARE_KERNEL(embedding_mixup, const value_tokens::Args&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(embedding_mixup_backward, const value_tokens::Args&, int64_t begin, int64_t end, void* scratch,
                   void* part, double* sums);
ORD_DECLARE_KERNEL(windowed_value, const value_tokens::Args&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(windowed_value_backward, const value_tokens::Args&, int64_t begin, int64_t end, void* scratch,
                   double* sums);
