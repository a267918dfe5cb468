// Dropout keyed by row: each element's factor, 0 or 1 / (1 - p), from 16 bits of Philox with the counter (row id, step,
// block). Eight blocks serve 64 features: of feature f, with v = f % 64 / 16 and l = f % 16, the bits are in block
// f / 64 * 8 + l / 2, word l % 2 * 2 + v / 2, its upper half where v is odd. So vectors of words are compared as they
// come, without a shuffle. (ordkernels/reference/_dropout.py says the same.)
#pragma once
#include "common/philox.h"
#include "cpu/gemm/gemm_tile_size.h"
#include "cpu/ops/dropout_args.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

constexpr int kDropoutWidth = 64, kDropoutBlocks = kDropoutWidth / 8;  // features together, their blocks

template <class T>
ORD_INLINE void factors_of_words(const uint64_t* from, uint32_t threshold, double scale, T* to) {
  if constexpr (sizeof(T) == 4) {
    const vi least = vi{} + (int32_t)threshold, one = (vi)(vf{} + (float)scale);
    for (int l = 0; l < 16; l += kLanes<float>) {
      vu w;
      __builtin_memcpy(&w, from + l / 2, sizeof w);
      store(to + l, (vf)(((vi)(w & 0xFFFF) >= least) & one));
      store(to + 16 + l, (vf)(((vi)(w >> 16) >= least) & one));
    }
  } else {
    uint32_t words[16];
    __builtin_memcpy(words, from, sizeof words);
    for (int l = 0; l < 16; ++l) {
      to[l] = (words[l] & 0xFFFF) >= threshold ? scale : 0;
      to[16 + l] = words[l] >> 16 >= threshold ? scale : 0;
    }
  }
}

// Factors of features [64 tile, 64 tile + 64) of rows [first, first + n) -> [n, 64].
template <class T>
__attribute__((noinline)) static void dropout_factors(const DropoutArgs& a, int64_t first, int64_t n, int64_t tile,
                                                      T* to) {
  constexpr int kRows = philox::kBlocks / kDropoutBlocks;
  alignas(64) uint64_t row[philox::kBlocks], index[philox::kBlocks], even[philox::kBlocks], odd[philox::kBlocks];
  for (int i = 0; i < philox::kBlocks; ++i) {
    index[i] = (uint64_t)(tile * kDropoutBlocks + i % kDropoutBlocks);
  }
  const double scale = a.scale();
  for (int64_t r = 0; r < n; r += kRows) {
    for (int i = 0; i < philox::kBlocks; ++i) {
      const int64_t at = r + i / kDropoutBlocks < n ? first + r + i / kDropoutBlocks : first;
      row[i] = (uint64_t)(a.row_ids ? a.row_ids[at] : at);
    }
    philox::make_words(row, index, a.step, a.seed, philox::kBlocks, even, odd);
    for (int64_t i = 0; i < kRows && r + i < n; ++i) {
      T* const out = to + (r + i) * kDropoutWidth;
      factors_of_words(even + i * kDropoutBlocks, a.threshold, scale, out);
      factors_of_words(odd + i * kDropoutBlocks, a.threshold, scale, out + 32);
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
