// Products of tiles (gemm_tile.h), compiled once for all ops that make them: tile_product_kernels.h.
#pragma once
#include "cpu/gemm/gemm_tile.h"

namespace ORD_ISA {

void multiply_tile(int64_t rows, const TileProduct<float>& p);
void multiply_tile(int64_t rows, const TileProduct<double>& p);
// a [k, rows]: its columns by those of the tile, the sums over k.
void multiply_tile_across(int64_t rows, const TileProduct<float>& p);
void multiply_tile_across(int64_t rows, const TileProduct<double>& p);

// w [n, k], rows `stride` apart -> tiles [tiles of n][tiles of k][64 k][64 n]; columns past n are zero.
void pack_tiles(const float* w, int64_t stride, int64_t n, int64_t k, float* to);
void pack_tiles(const double* w, int64_t stride, int64_t n, int64_t k, double* to);

namespace {

constexpr int64_t kTileSize = kTileWidth * kTileWidth;

// Rows of `width` elements in tiles, `tile` elements from one to the next.
template <class T>
struct TiledRows {
  const T* p;
  int64_t tile, width;
};
// What products are added to.
template <class T>
struct Start {
  const T* p;
  int64_t row = 0;          // 64, or 0: the same row for all
  const T* bias = nullptr;  // null: none
};

// c [rows, 64] = start + a w, w [tiles of a's width] tiles.
template <class T>
static void multiply_tiles(int64_t rows, TiledRows<T> a, const T* w, Start<T> start, T* c, int64_t columns) {
  for (int64_t i = 0; i < tiles_of(a.width); ++i) {
    multiply_tile(rows, TileProduct<T>{a.p + i * a.tile, w + i * kTileSize, tile_columns(a.width, i), i ? c : start.p,
                                       i ? kTileWidth : start.row, i ? nullptr : start.bias, c, columns});
  }
}

}  // namespace
}  // namespace ORD_ISA
