// The width of the tiles that gemm_tile.h works on, for those who allocate them.
#pragma once
#include <cstdint>

constexpr int64_t kTileWidth = 64;
constexpr int64_t tiles_of(int64_t n) { return (n + kTileWidth - 1) / kTileWidth; }
constexpr int64_t tile_columns(int64_t n, int64_t tile) {
  return n - tile * kTileWidth < kTileWidth ? n - tile * kTileWidth : kTileWidth;
}  // the columns of tile `tile`
