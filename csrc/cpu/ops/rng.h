// Row-keyed noise: float l of row r is number draw * width + l of the stream (seed, row id, step). Rows [begin, end).
#pragma once
#include "common/philox.h"
#include "cpu/ops/rng_args.h"

namespace ORD_ISA {

// A draw is in range if its last index, draw * width + width - 1, is at most 2^32.
static inline int64_t largest_draw(int64_t width) {
  const int64_t remaining = (INT64_C(1) << 32) + 1 - width;
  return remaining < 0 ? -1 : remaining / width;
}

// Rows of whole blocks, which lie one after the other in `out`.
template <bool NORMAL>
static inline void noise_of_blocks(const NoiseArgs& a, int64_t begin, int64_t end) {
  using philox::kBlocks;
  const int64_t* __restrict row_ids = a.row_ids, * __restrict draw_ids = a.draw_ids;
  const uint64_t step = (uint64_t)a.step, seed = (uint64_t)a.seed;
  alignas(64) uint64_t row[kBlocks] = {}, index[kBlocks] = {};
  const int64_t blocks_per_row = a.width / 4;
  float* __restrict to = a.out + begin * a.width;
  int64_t n = 0;
  for (int64_t r = begin; r < end; ++r) {
    uint64_t first = (uint64_t)(draw_ids ? draw_ids[r] : a.draw) * blocks_per_row;
    for (int64_t remaining = blocks_per_row; remaining;) {
      const int64_t m = remaining < kBlocks - n ? remaining : kBlocks - n;
      for (int64_t i = 0; i < m; ++i) {
        row[n + i] = (uint64_t)row_ids[r];
        index[n + i] = first + i;
      }
      n += m;
      first += m;
      remaining -= m;
      if (n < kBlocks) {
        continue;
      }
      philox::blocks<NORMAL>(row, index, step, seed, kBlocks, to);
      to += 4 * kBlocks;
      n = 0;
    }
  }
  if (!n) {
    return;
  }
  alignas(64) float generated[4 * kBlocks];
  philox::blocks<NORMAL>(row, index, step, seed, (int)n, generated);
  __builtin_memcpy(to, generated, 4 * n * sizeof(float));
}

// Rows of any width: a piece of a row lies within one block.
template <bool NORMAL>
static inline void noise_of_pieces(const NoiseArgs& a, int64_t begin, int64_t end) {
  using philox::kBlocks;
  const int64_t* __restrict row_ids = a.row_ids, * __restrict draw_ids = a.draw_ids;
  const int64_t width = a.width, largest = largest_draw(width);
  const uint64_t step = (uint64_t)a.step, seed = (uint64_t)a.seed;
  float* __restrict out = a.out;
  struct Piece {
    float* to;
    int skip, count;
  } pieces[kBlocks];
  alignas(64) uint64_t row[kBlocks] = {}, index[kBlocks] = {};
  alignas(64) float generated[4 * kBlocks];
  int n = 0;
  const auto flush = [&] {  // blocks of many rows are generated together
    philox::blocks<NORMAL>(row, index, step, seed, n, generated);
    for (int i = 0; i < n; ++i) {
      const float* from = generated + 4 * i + pieces[i].skip;
      if (pieces[i].count == 4) {
        __builtin_memcpy(pieces[i].to, from, 16);
      } else {
        for (int j = 0; j < pieces[i].count; ++j) {
          pieces[i].to[j] = from[j];
        }
      }
    }
    n = 0;
  };
  for (int64_t r = begin; r < end; ++r) {
    float* o = out + r * width;
    const int64_t draw = draw_ids ? draw_ids[r] : a.draw;
    if (draw < 0 || draw > largest) {
      for (int64_t l = 0; l < width; ++l) {
        o[l] = __builtin_nanf("");
      }
      continue;
    }
    uint64_t first = (uint64_t)draw * width;
    for (int64_t l = 0; l < width;) {
      const int skip = (int)(first % 4), count = 4 - skip < width - l ? 4 - skip : (int)(width - l);
      row[n] = (uint64_t)row_ids[r];
      index[n] = first / 4;
      pieces[n] = {o + l, skip, count};
      first += count;
      l += count;
      if (++n == kBlocks) {
        flush();
      }
    }
  }
  if (n) {
    flush();
  }
}

template <bool NORMAL>
static inline void noise(const NoiseArgs& a, int64_t begin, int64_t end) {
  const int64_t largest = largest_draw(a.width);
  bool whole_blocks = a.width % 4 == 0 && (a.draw_ids || (a.draw >= 0 && a.draw <= largest));
  for (int64_t r = begin; a.draw_ids && r < end; ++r) {
    whole_blocks &= a.draw_ids[r] >= 0 && a.draw_ids[r] <= largest;
  }
  whole_blocks ? noise_of_blocks<NORMAL>(a, begin, end) : noise_of_pieces<NORMAL>(a, begin, end);
}

void random_normal(const NoiseArgs& a, int64_t begin, int64_t end) { noise<true>(a, begin, end); }

void random_uniform(const NoiseArgs& a, int64_t begin, int64_t end) { noise<false>(a, begin, end); }

// counter [N, 4], key [N, 2], their lower 32 bits -> words [N, 4].
void philox_words(const int64_t* __restrict counter, const int64_t* __restrict key, uint32_t* __restrict out,
                  int64_t begin, int64_t end) {
  constexpr int W = philox::kLanes;
  for (int64_t i = begin; i < end; i += W) {
    philox::words c[4][1] = {}, keys[20] = {};
    const int n = end - i < W ? (int)(end - i) : W;
    for (int l = 0; l < n; ++l) {
      for (int w = 0; w < 4; ++w) {
        c[w][0][l] = (uint32_t)counter[4 * (i + l) + w];
      }
      for (int w = 0; w < 2; ++w) {
        keys[w][l] = (uint32_t)key[2 * (i + l) + w];
      }
    }
    for (int r = 2; r < 20; ++r) {
      keys[r] = keys[r - 2] + (r % 2 ? 0xBB67AE85u : 0x9E3779B9u);
    }
    philox::rounds<1>(c[0], c[1], c[2], c[3], keys);
    for (int l = 0; l < n; ++l) {
      for (int w = 0; w < 4; ++w) {
        out[4 * (i + l) + w] = (uint32_t)c[w][0][l];
      }
    }
  }
}

}  // namespace ORD_ISA
