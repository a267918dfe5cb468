// The products of tile_product.h, compiled once per instruction set.
#pragma once
#include "cpu/gemm/tile_product.h"

namespace ORD_ISA {

void multiply_tile(int64_t rows, const TileProduct<float>& p) { multiply_in_strips(rows, p); }
void multiply_tile(int64_t rows, const TileProduct<double>& p) { multiply_in_strips(rows, p); }
void multiply_tile_across(int64_t rows, const TileProduct<float>& p) { multiply_in_strips<float, true>(rows, p); }
void multiply_tile_across(int64_t rows, const TileProduct<double>& p) { multiply_in_strips<double, true>(rows, p); }
void pack_tiles(const float* w, int64_t stride, int64_t n, int64_t k, float* to) { pack(w, stride, n, k, to); }
void pack_tiles(const double* w, int64_t stride, int64_t n, int64_t k, double* to) { pack(w, stride, n, k, to); }

}  // namespace ORD_ISA
