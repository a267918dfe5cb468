// What the torch side and the kernels of embedding_mixup and windowed_value share.
#pragma once
#include <cstdint>

#include "common/declare_kernel.h"
#include "cpu/dtype.h"

namespace tokens {

struct TokenArgs {
  DType type;          // of the logits
  DType value_type;    // of the result and its gradient: that of the logits, or the one they are computed in
  const void* logits;  // [R, V]
  const void* table;   // in the compute type: the embedding [V, P], or values [P]; zero-padded
  const void* g;       // [R, E] or [R]
  void* out;           // [R, E] or [R]
  void* g_logits;      // [R, V] or null
  int64_t R, V, E;
  int64_t P;      // E, or V for values, in whole vectors of any instruction set
  int64_t half;   // window // 2, or -1: the whole vocabulary
  int64_t first;  // first value token
  // of the whole vocabulary alone:
  const void* transposed;  // the embedding [E, padded V], for the backward
  int64_t block;           // rows that a product takes at once
};
constexpr int kStripRows = 6;   // rows of the products' inner loops
constexpr int kBlockRows = 48;  // at most as many at once

inline int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Elements of scratch, of the compute type. A row at a time: logits, their exponentials, both gradients; a row of the
// result and its gradient. A block of rows at a time: the softmaxes, their gradients and the results; a row of logits.
inline int64_t scratch_size(const TokenArgs& a) {
  return a.half < 0 ? a.block * (2 * padded(a.V) + a.P) + padded(a.V + 16)
                    : 4 * padded(a.V + 16) + 2 * padded(a.E + 16);
}

}  // namespace tokens
