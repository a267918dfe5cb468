// What the value_decode kernel works on; the same type in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/gemm/gemm_tile_size.h"

enum { kNoMixup, kWindowMixup, kFullMixup };
enum { kPad, kSos, kEos, kFirstValue };

// Everything in the compute type (float, or double), contiguous.
struct DecodeArgs {
  bool is_double, pre, gelu, windowed, monotone, constrained, project;
  bool table;  // the first layer's q, k, v of every token are made once
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
  void* shared;                       // decode_shared elements, filled once per call
  int64_t rows;                       // at most so many go through the steps together
};

constexpr int64_t kDecodeRows = 48;
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// A row's scores: of a head, or of all where these are fewer than a vector's lanes.
constexpr int64_t decode_scores(const DecodeArgs& a) { return padded(a.steps * (a.heads < 16 ? a.heads : 16)); }

// Elements of a layer's packed weights; of everything that is prepared once per call; of a thread's scratch.
constexpr int64_t decode_layer(const DecodeArgs& a) {
  const int64_t nb = tiles_of(a.d), fb = tiles_of(a.F);
  return kTileWidth * kTileWidth * nb * (6 * nb + 2 * fb) + kTileWidth * (13 * nb + fb);
}
constexpr int64_t decode_shared(const DecodeArgs& a) {
  const int64_t nb = tiles_of(a.d), vb = tiles_of(a.V), mb = tiles_of(a.M);
  return a.L * decode_layer(a) + kTileWidth * kTileWidth * nb * (2 * vb + (a.project ? mb : 0)) +
         kTileWidth * (2 * vb + 3 * nb + a.steps * nb) + (a.table ? 3 * nb * a.V * kTileWidth : 0);
}
constexpr int64_t decode_scratch(const DecodeArgs& a) {
  const int64_t nb = tiles_of(a.d), vb = tiles_of(a.V), mb = tiles_of(a.M);
  return a.rows * (kTileWidth * (8 * nb + 1 + vb + mb + 2 * a.L * nb) + 2 * a.L * a.steps * padded(a.d)) +
         2 * vb * kTileWidth + 18 * padded(a.d) + decode_scores(a) + 8 * kTileWidth;
}
