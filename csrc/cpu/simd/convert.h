// Tensors of any storage type for kernels that are compiled for fp32 and fp64 alone: bf16 and fp16 pass through scratch
// memory in fp32 that stays in the first cache, in pieces long enough that the choice of the type costs nothing.
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
