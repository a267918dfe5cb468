// What conditional_planar_flow needs besides planar_flow's kernels and matrix products.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {

// sums [C] += the sums over the rows of x [rows, C], in the order of the rows.
void add_columns(bool is_double, const void* x, int64_t rows, int64_t C, void* sums) {
  const auto run = [&]<class T>(const T* p, T* to) __attribute__((always_inline)) {
    for_each_vector<T>(C, [&](int64_t c, int n) __attribute__((always_inline)) {
      auto s = load(to + c, n, to + C);
      for (int64_t r = 0; r < rows; ++r) {
        s += load(p + r * C + c, n, p + rows * C);
      }
      store(to + c, s, n);
    });
  };
  is_double ? run((const double*)x, (double*)sums) : run((const float*)x, (float*)sums);
}

}  // namespace ORD_ISA
