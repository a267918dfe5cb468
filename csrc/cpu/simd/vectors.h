// Vectors of the width of the instruction set in hand: GCC's vector extension, no intrinsics. Included inside no
// namespace: everything lands in ORD_ISA. No std:: here, nor in any file compiled per instruction set: an inline std
// function compiled for AVX-512 is a weak symbol that the linker may give to the baseline file too.
#pragma once
#include <cstdint>

#include "cpu/dtype.h"

#define ORD_INLINE static inline __attribute__((always_inline))
#if defined(__AVX512F__)
#define ORD_BYTES 64
#elif defined(__AVX2__)
#define ORD_BYTES 32
#else
#define ORD_BYTES 16
#endif

namespace ORD_ISA {

typedef float vf __attribute__((vector_size(ORD_BYTES)));
typedef int32_t vi __attribute__((vector_size(ORD_BYTES)));
typedef uint32_t vu __attribute__((vector_size(ORD_BYTES)));
typedef double vd __attribute__((vector_size(ORD_BYTES)));
typedef int64_t vl __attribute__((vector_size(ORD_BYTES)));
typedef uint16_t vh __attribute__((vector_size(ORD_BYTES / 2)));
struct bf16 {
  uint16_t x;
};
struct f16 {
  uint16_t x;
};

// T: what a storage type S is computed in; V: a vector of T, I: the integers (and masks) of its lanes.
template <class S>
struct Traits {
  typedef float T;
  typedef vf V;
  typedef vi I;
};
template <>
struct Traits<double> {
  typedef double T;
  typedef vd V;
  typedef vl I;
};
template <class V>
struct IntsOf;
template <>
struct IntsOf<vf> {
  typedef vi I;
};
template <>
struct IntsOf<vd> {
  typedef vl I;
};
template <class V>
using Ints = typename IntsOf<V>::I;
template <class T>
constexpr int kLanes = ORD_BYTES / sizeof(T);
template <class V>
constexpr int kSize = sizeof(V) / sizeof(V{}[0]);

// f(S{}) for the storage type S that `type` names.
template <class F>
ORD_INLINE auto with_storage_type(DType type, const F& f) {
  switch (type) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(bf16{});
    default: return f(f16{});
  }
}

}  // namespace ORD_ISA
