// What the gemm kernel works on; the same type in every instruction set.
#pragma once
#include <cstdint>

enum class GemmStart { bias, zero, c };  // what the products are added to: a row for all, nothing, c itself

// c [M, N] = start + a [M, K] b [K, N], all of one type; strides in elements, and of a and b one is 1.
struct GemmArgs {
  bool is_double;
  int64_t M, N, K;
  const void *a, *b, *bias;  // bias [N]
  int64_t a_row, a_column, b_row, b_column;
  GemmStart start;
  void* c;
  int64_t c_row;
};

constexpr int64_t kGemmDepth = 128;  // rows of b that are packed at a time
constexpr int64_t gemm_scratch(const GemmArgs& a) { return kGemmDepth * 64 * (a.is_double ? 8 : 4); }  // bytes
