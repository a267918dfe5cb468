// Rows of tensors of any storage type for kernels that compute in float or double: rows of bf16 and fp16 go through
// buffers in fp32, so that a kernel's arithmetic is compiled for two types, not four.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

ORD_INLINE bool is_half(DType type) { return type == DType::bf16 || type == DType::f16; }

template <class H>
static __attribute__((noinline)) void widen_all(const H* from, int64_t n, float* to) {
  constexpr int W = kLanes<float>;
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + W <= n; i += W) {
    store(to + i, load(from + i));
  }
  for (; i < n; ++i) {
    to[i] = number(from[i]);
  }
}
template <class H>
static __attribute__((noinline)) void narrow_all(const float* from, int64_t n, H* to) {
  constexpr int W = kLanes<float>;
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + W <= n; i += W) {
    store(to + i, load(from + i));
  }
  if (i < n) {
    store(to + i, load(from + i, (int)(n - i), from + n), (int)(n - i));
  }
}

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
      type == DType::bf16 ? widen_all((const bf16*)tensor + at, n, buffer)
                          : widen_all((const f16*)tensor + at, n, buffer);
      return {buffer, buffer + n + kLanes<T>};
    }
  }
  return {(const T*)tensor + at, (const T*)tensor + size};
}

// Where elements from `at` on are made: in place, or in `buffer` if of a half type; then write_elements takes them on.
template <class T>
ORD_INLINE T* place_for(DType type, void* tensor, int64_t at, T* buffer) {
  return !tensor ? nullptr : is_half(type) ? buffer : (T*)tensor + at;
}
template <class T>
ORD_INLINE void write_elements(DType type, const T* buffer, void* tensor, int64_t at, int64_t n) {
  if constexpr (sizeof(T) == 4) {
    if (tensor && is_half(type)) {
      type == DType::bf16 ? narrow_all(buffer, n, (bf16*)tensor + at) : narrow_all(buffer, n, (f16*)tensor + at);
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
