// Arrays of a half type to fp32 and back. Kernels are compiled for fp32 and fp64 alone: half types pass through scratch
// memory that stays in the first cache, in pieces long enough that the choice of the type costs nothing.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <class H>
ORD_INLINE void widen_all(const H* from, int64_t n, float* to) {
  for_each_vector<float>(
      n, [&](int64_t i, int m) __attribute__((always_inline)) { store(to + i, load(from + i, m, from + n), m); });
}
template <class H>
ORD_INLINE void narrow_all(const float* from, int64_t n, H* to) {
  for_each_vector<float>(
      n, [&](int64_t i, int m) __attribute__((always_inline)) { store(to + i, load(from + i, m, from + n), m); });
}

__attribute__((noinline, unused)) static void to_float(DType type, const void* from, int64_t n, float* to) {
  type == DType::bf16 ? widen_all((const bf16*)from, n, to) : widen_all((const f16*)from, n, to);
}
__attribute__((noinline, unused)) static void from_float(DType type, const float* from, int64_t n, void* to) {
  type == DType::bf16 ? narrow_all(from, n, (bf16*)to) : narrow_all(from, n, (f16*)to);
}

}  // namespace
}  // namespace ORD_ISA
