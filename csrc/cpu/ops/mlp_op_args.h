// What the kernels of the op `mlp` work on; the same types in every instruction set.
#pragma once
#include <cstdint>

#include "cpu/gemm/gemm_tile_size.h"
#include "cpu/ops/dropout_args.h"

// Rows [T, H] that are added to the hidden layer by an index per row.
struct MlpTable {
  const void* rows;      // null: none
  const int64_t* index;  // [R]; null: row r of R, or the only one
  int64_t T;

  int64_t row(int64_t r) const { return index ? index[r] : T == 1 ? 0 : r; }
};

// R rows through G networks side by side, y = drop(silu(x w_in^T + b_in + rows)) w_out^T + b_out, all in the compute
// type. Strides in elements; of each weight one of the last two is 1.
struct MlpOpArgs {
  bool is_double;
  int64_t R, G, D, H, O;
  const void *x, *w_in, *w_out, *b_in, *b_out;  // b_in [G, H], may be null; b_out [G, O]
  int64_t x_row, x_group;                       // x_group 0: one input for all networks
  int64_t in_group, in_h, in_d, out_group, out_o, out_h;
  MlpTable tables[2];  // with G = 1 alone
  DropoutArgs dropout;
  void* packed;  // mlp_op_packed elements, filled by mlp_op_pack

  void* y;  // [R, G, O]

  // Backward alone.
  const void* g;                               // [R, G, O]
  void *dx, *dw_in, *db_in, *dw_out, *db_out;  // null: not asked for; like x, [G, H, D], [G, H], [G, O, H], [G, O]
  int64_t chunks, chunk_rows;    // rows whose gradients are summed before they are added to those of others
  void* partial;                 // [chunks][mlp_op_partial]
  void* slots[2];                // [slots of all chunks][h_tiles 64]: sums for a row of the table
  const int64_t* slot[2];        // [R]: which one of them takes row r
  const int64_t* first_slot[2];  // [chunks + 1]
  const int64_t* slot_row[2];    // [slots]: the row of the table
  void* dtable[2];               // [T, H]
};

constexpr int64_t kMlpOpRows = 96;     // rows that go through the layers together
constexpr int64_t kMlpFewOutputs = 4;  // up to here outputs are sums over a row, not columns of a product

constexpr int64_t mlp_op_in_tiles(const MlpOpArgs& a) { return a.G * tiles_of(a.H) * tiles_of(a.D); }
constexpr int64_t mlp_op_out_tiles(const MlpOpArgs& a) { return a.G * tiles_of(a.H) * tiles_of(a.O); }
constexpr int64_t mlp_op_biases(const MlpOpArgs& a) { return kTileWidth * a.G * (tiles_of(a.H) + tiles_of(a.O)); }
// Elements: each weight in tiles both ways, and the biases.
constexpr int64_t mlp_op_packed(const MlpOpArgs& a) {
  return 2 * kTileWidth * kTileWidth * (mlp_op_in_tiles(a) + mlp_op_out_tiles(a)) + mlp_op_biases(a);
}
// The gradients of a chunk: of weights in tiles, and of biases.
constexpr int64_t mlp_op_partial(const MlpOpArgs& a) {
  return kTileWidth * kTileWidth * (mlp_op_in_tiles(a) + mlp_op_out_tiles(a)) + mlp_op_biases(a);
}
// Of a thread: x and dx, y or its gradient, three hidden tiles.
constexpr int64_t mlp_op_scratch(const MlpOpArgs& a) {
  return kMlpOpRows * kTileWidth * (2 * tiles_of(a.D) + tiles_of(a.O) + 3);
}
