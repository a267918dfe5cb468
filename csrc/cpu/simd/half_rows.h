// Rows of tensors of any storage type for kernels that compute in float or double: rows of bf16 and fp16 go through
// buffers in fp32, so that a kernel's arithmetic is compiled for two types, not four.
#pragma once
#include "cpu/simd/convert.h"

namespace ORD_ISA {
namespace {

// Elements in the type that they are computed in; what lies before `end` may be read.
template <class T>
struct Elements {
  const T *p, *end;

  inline __attribute__((always_inline)) typename Traits<T>::V at(int64_t i, int lanes) const {
    return load(p + i, lanes, end);
  }
  Elements from(int64_t i) const { return {p ? p + i : nullptr, end}; }
};

// Elements [at, at + n) of a tensor of `size`: where they lie, or in `buffer`, of n and a vector's lanes, if of a half
// type. Null for a null tensor.
template <class T>
ORD_INLINE Elements<T> read_elements(DType type, const void* tensor, int64_t at, int64_t n, int64_t size, T* buffer) {
  if (!tensor) {
    return {nullptr, nullptr};
  }
  if constexpr (sizeof(T) == 4) {
    if (is_half(type)) {
      to_float(type, (const char*)tensor + at * storage_size(type), n, buffer);
      return {buffer, buffer + n + kLanes<T>};
    }
  }
  return {(const T*)tensor + at, (const T*)tensor + size};
}

// Where to compute elements from `at` on: in place, or in `buffer` if of a half type; write_elements then stores them.
template <class T>
ORD_INLINE T* place_for(DType type, void* tensor, int64_t at, T* buffer) {
  return !tensor ? nullptr : is_half(type) ? buffer : (T*)tensor + at;
}
template <class T>
ORD_INLINE void write_elements(DType type, const T* buffer, void* tensor, int64_t at, int64_t n) {
  if constexpr (sizeof(T) == 4) {
    if (tensor && is_half(type)) {
      from_float(type, buffer, n, (char*)tensor + at * storage_size(type));
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
