// What the denoise_chain kernel works on; the same type in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/kernels/gemm_tile_size.h"

// Everything in the compute type (float, or double), contiguous unless a stride is given.
struct ChainArgs {
  bool wide;                 // double
  int64_t B, D, C, H, E, S, K;
  const void *x, *cond;      // [B, D], [B, C]
  const void *w_in, *b_in;   // [H, D + E] the latent's columns, then the time's; [H]
  const void *w_cond;        // [H, C]
  const void *w_out, *b_out; // [D, H], [D]
  const void* embedding;     // [S, E]
  const double* numbers;     // [S, 8]: c0, c1, d0, d1, d2, sigma, timestep, place among the aligned ones or -1
  const void* noise;         // [S, B, D] or null
  bool made;                 // noise made here, of these rows and draws
  const int64_t *row_ids, *draw_ids;  // [B]; draw_ids may be null: draw 0
  uint64_t seed;
  double clip;
  void *x_0, *states;        // [B, D], [B, K, D]
  void* shared;              // chain_shared elements, filled once per call
};

constexpr int64_t kChainRows = 48;  // most rows that go through the steps together

// Elements: the weights in tiles, the table of steps, the output's bias; and per thread.
constexpr int64_t chain_shared(const ChainArgs& a) {
  const int64_t Db = tiles_of(a.D), Hb = tiles_of(a.H);
  return kT * (kT * Hb * (2 * Db + tiles_of(a.C) + tiles_of(a.E)) + a.S * Hb + Db + Hb);
}
constexpr int64_t chain_scratch(const ChainArgs& a) {
  const int64_t widest = tiles_of(a.C) > tiles_of(a.E) ? tiles_of(a.C) : tiles_of(a.E);
  return kChainRows * (kT * (2 * tiles_of(a.D) + tiles_of(a.H) + 1 + widest) + a.D) + kT;
}
