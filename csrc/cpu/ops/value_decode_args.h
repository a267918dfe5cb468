// What the value_decode kernel works on; the same type in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/gemm/gemm_tile_size.h"

enum { kNoMixup, kWindowMixup, kFullMixup };
enum { kPad, kSos, kEos, kFirstValue };

// Everything in the compute type (float, or double), contiguous.
struct ValueDecodeArgs {
  bool is_double, pre_norm, gelu, windowed, monotone, constrained;
  bool projects_memory;  // else the memory has the width of the embedding
  bool tabulate_qkv;     // the first layer's q, k, v of every token are computed once
  int64_t B, d, M, heads, F, V, L, steps;
  int64_t half, mixup;  // tokens on each side of a window; kNoMixup, ...
  double eps, temperature, cap;
  int64_t seed;
  const void *memory, *values;        // [B, M], [V]
  const void *position, *capacity;    // [>= steps, d], [B]; or null
  const int64_t *row_ids, *draw_ids;  // [B]; draw_ids may be null: draw 0
  const void* const* weights;         // in the order of reference/value_decode.py
  void* value;                        // [B]
  int64_t *tokens, *lengths;          // [B, steps], [B]
  void* packed;                       // decode_packed elements, filled once per call
  int64_t rows_together;              // at most so many go through the steps together
};

constexpr int64_t kDecodeRows = 48;
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// A row's scores: of a head, or of all where these are fewer than a vector's lanes.
constexpr int64_t decode_scores(const ValueDecodeArgs& a) { return padded(a.steps * (a.heads < 16 ? a.heads : 16)); }

// Elements of a layer's packed weights.
constexpr int64_t decode_layer_size(const ValueDecodeArgs& a) {
  const int64_t d_tiles = tiles_of(a.d), f_tiles = tiles_of(a.F);
  return kTileWidth * kTileWidth * d_tiles * (6 * d_tiles + 2 * f_tiles) + kTileWidth * (13 * d_tiles + f_tiles);
}
// Of everything that is packed once per call.
constexpr int64_t decode_packed(const ValueDecodeArgs& a) {
  const int64_t d_tiles = tiles_of(a.d), v_tiles = tiles_of(a.V), m_tiles = a.projects_memory ? tiles_of(a.M) : 0;
  return a.L * decode_layer_size(a) + kTileWidth * kTileWidth * d_tiles * (2 * v_tiles + m_tiles) +
         kTileWidth * (2 * v_tiles + 3 * d_tiles + a.steps * d_tiles) +
         (a.tabulate_qkv ? 3 * d_tiles * a.V * kTileWidth : 0);
}
// Of a thread's scratch.
constexpr int64_t decode_scratch(const ValueDecodeArgs& a) {
  const int64_t d_tiles = tiles_of(a.d), v_tiles = tiles_of(a.V), m_tiles = tiles_of(a.M);
  const int64_t per_row =
      kTileWidth * (8 * d_tiles + 1 + v_tiles + m_tiles + 2 * a.L * d_tiles) + 2 * a.L * a.steps * padded(a.d);
  return a.rows_together * per_row + 2 * v_tiles * kTileWidth + 18 * padded(a.d) + decode_scores(a) + 8 * kTileWidth;
}
