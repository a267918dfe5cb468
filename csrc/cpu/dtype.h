// The storage types of tensors that kernels are called with; the same type in every instruction set.
#pragma once
#include <cstdint>

enum class DType : int { f32, f64, bf16, f16 };

constexpr int64_t storage_size(DType t) { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }
constexpr int64_t compute_size(DType t) { return t == DType::f64 ? 8 : 4; }  // half types are computed in fp32
constexpr bool is_half(DType t) { return t == DType::bf16 || t == DType::f16; }
