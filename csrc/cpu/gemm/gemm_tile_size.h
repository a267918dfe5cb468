// The width of the tiles that gemm_tile.h works on, for those who allocate them.
#pragma once
#include <cstdint>

constexpr int64_t kT = 64;
constexpr int64_t tiles_of(int64_t n) { return (n + kT - 1) / kT; }
constexpr int64_t part(int64_t n, int64_t tile) {
  return n - tile * kT < kT ? n - tile * kT : kT;
}  // the columns of tile `tile`
