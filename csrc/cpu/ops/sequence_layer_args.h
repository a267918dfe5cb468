// What the kernels of the op `sequence_layer` work on; the same types in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/ops/dropout_args.h"

enum class Activation { silu, relu, gelu };

// Of the attention, the feed-forward part and the memory: 1, 2 and 3.
enum SequenceWeight {
  kNorm1Weight,
  kNorm1Bias,
  kQkvWeight,
  kQkvBias,
  kOutWeight,
  kOutBias,
  kNorm2Weight,
  kNorm2Bias,
  kLinear1Weight,
  kLinear1Bias,
  kLinear2Weight,
  kLinear2Bias,
  kNorm3Weight,
  kNorm3Bias,
  kSequenceWeights
};

// The dropouts of one layer: of what the attention, the feed-forward part and the memory add.
enum SequenceSite { kAttentionSite, kFeedForwardSite, kMemorySite, kSequenceSites };

// A Transformer layer of width W with F hidden units on S sequences, tokens packed: sequence s has the tokens
// offsets[s] .. offsets[s + 1]. All in the compute type, rows contiguous.
struct SequenceLayerArgs {
  bool is_double, pre_norm, causal;
  Activation activation;
  int64_t S, N, W, F, heads, longest;
  double eps;
  const int64_t* offsets;
  const int64_t* tiles;           // tile i has the sequences tiles[i] .. tiles[i + 1]
  int64_t tile_count, tile_rows;  // rows: the most tokens of a tile
  const void *x, *memory;         // [N, W]; [S, W] or null
  const void* weights[kSequenceWeights];
  DropoutArgs dropout;  // row_ids [S]; step: of the first site
  void* packed;         // sequence_layer_packed elements

  void *y, *qkv, *z1, *h, *z3;  // [N, W]; saved where not null: [N, 3 W], [N, W], [N, F], [N, W] (post-norm)

  // Backward alone; gradients that are null are not asked for.
  const void* g;       // [N, W]
  void *dx, *dmemory;  // like x, memory
  void* grads[kSequenceWeights];
  int64_t chunks, chunk_tiles;  // tiles whose gradients are summed before they are added to those of others
  void* partial;                // [chunks][all weights, one after the other]

  int64_t size(int weight) const {
    switch (weight) {
      case kQkvWeight: return 3 * W * W;
      case kQkvBias: return 3 * W;
      case kOutWeight: return W * W;
      case kLinear1Weight:
      case kLinear2Weight: return F * W;
      case kLinear1Bias: return F;
      case kNorm3Weight:
      case kNorm3Bias: return weights[weight] ? W : 0;
      default: return W;
    }
  }
  int64_t first(int weight) const {
    int64_t at = 0;
    for (int i = 0; i < weight; ++i) {
      at += size(i);
    }
    return at;
  }
};

constexpr int64_t round_to_lanes(int64_t n) { return (n + 15) / 16 * 16; }

// Elements of the four matrices in panels.
constexpr int64_t sequence_layer_packed(const SequenceLayerArgs& a) {
  return (round_to_lanes(3 * a.W) + round_to_lanes(a.W) + round_to_lanes(a.F)) * a.W + round_to_lanes(a.W) * a.F;
}
// Tokens that go through the layer together: what they touch stays in the second cache.
constexpr int64_t sequence_layer_tile(int64_t W, int64_t F) {
  const int64_t fit = (INT64_C(9) << 14) / (12 * W + 2 * F);
  return fit < 64 ? 64 : fit > 256 ? 256 : fit;
}
constexpr int64_t sequence_hidden_row(int64_t F) { return F + 16; }  // a power of 2 apart rows would share cache sets

// Sequences of more tokens are never put side by side in the lanes of vectors.
constexpr int64_t kLongestInLanes = 24;
// Heads of `width` columns that are transposed together.
constexpr int64_t lane_attention_heads(int64_t lanes, int64_t width) { return width < lanes ? lanes / width : 1; }
constexpr int64_t lane_attention_scratch(const SequenceLayerArgs& a) {
  const int64_t n = a.longest < kLongestInLanes ? a.longest : kLongestInLanes, width = a.W / a.heads;
  return (8 * n * (width < 16 ? 16 : width) + 2 * n * n) * 16;
}
constexpr int64_t sequence_attention_scratch(const SequenceLayerArgs& a) {
  const int64_t queries = round_to_lanes(a.longest), one = (a.W / a.heads + 16 + 2 * a.longest) * queries + 64,
                together = lane_attention_scratch(a);
  return one > together ? one : together;
}
// Of a thread, elements: nine matrices of W columns (qkv and its gradient have 3), the hidden layer and its gradient,
// factors of dropout, moments of three norms.
constexpr int64_t sequence_layer_scratch(const SequenceLayerArgs& a) {
  return a.tile_rows * (11 * a.W + 2 * sequence_hidden_row(a.F) + 64 + 6) + sequence_attention_scratch(a);
}
