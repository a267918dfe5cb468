// Arrays of a half type to fp32 and back; kernels in simd/convert.h.
#pragma once
#include "common/declare_kernel.h"
#include "cpu/dtype.h"

ORD_DECLARE_KERNEL(half_to_float, DType type, const void* from, int64_t n, float* to);
ORD_DECLARE_KERNEL(float_to_half, DType type, const float* from, int64_t n, void* to);
