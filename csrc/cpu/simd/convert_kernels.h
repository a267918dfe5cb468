// The conversions of convert.h, for the torch side.
#pragma once
#include "cpu/convert_rows.h"
#include "cpu/simd/convert.h"

namespace ORD_ISA {

void half_to_float(DType type, const void* from, int64_t n, float* to) { to_float(type, from, n, to); }
void float_to_half(DType type, const float* from, int64_t n, void* to) { from_float(type, from, n, to); }

}  // namespace ORD_ISA
