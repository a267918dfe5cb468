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

// Where the words of a row lie: the row id of the counter, and its first block.
struct DropoutPlace {
  uint64_t id, first_block;
};

// Factors of features [64 tile, 64 tile + 64) of n rows -> [n, 64]; place(i): where those of row i lie.
template <class T, class Place>
ORD_INLINE void dropout_factors_at(const DropoutArgs& a, const Place& place, int64_t n, int64_t tile, T* to) {
  constexpr int kRows = philox::kBlocks / kDropoutBlocks;
  alignas(64) uint64_t row[philox::kBlocks], index[philox::kBlocks], even[philox::kBlocks], odd[philox::kBlocks];
  const double scale = a.scale();
  for (int64_t r = 0; r < n; r += kRows) {
    for (int i = 0; i < kRows; ++i) {
      const DropoutPlace at = place(r + i < n ? r + i : r);
      for (int b = 0; b < kDropoutBlocks; ++b) {
        row[i * kDropoutBlocks + b] = at.id;
        index[i * kDropoutBlocks + b] = at.first_block + (uint64_t)(tile * kDropoutBlocks + b);
      }
    }
    philox::make_words(row, index, a.step, a.seed, philox::kBlocks, even, odd);
    for (int64_t i = 0; i < kRows && r + i < n; ++i) {
      T* const out = to + (r + i) * kDropoutWidth;
      factors_of_words(even + i * kDropoutBlocks, a.threshold, scale, out);
      factors_of_words(odd + i * kDropoutBlocks, a.threshold, scale, out + 32);
    }
  }
}

// The same of rows [first, first + n), each with its own stream.
template <class T>
__attribute__((noinline)) static void dropout_factors(const DropoutArgs& a, int64_t first, int64_t n, int64_t tile,
                                                      T* to) {
  dropout_factors_at(
      a,
      [&](int64_t i) __attribute__((always_inline)) {
        return DropoutPlace{(uint64_t)(a.row_ids ? a.row_ids[first + i] : first + i), 0};
      },
      n, tile, to);
}

}  // namespace
}  // namespace ORD_ISA
