// Products of tensor cores from numbers as they lie in memory: fp32 in three products of TF32, or bf16.
//
// A product c [16 x 8] += left [16 x 16] right [16 x 8] sums over 16 columns in any order, so a lane 4 g + t brings the
// neighbouring columns 4 t, ..., 4 t + 3 of rows g and g + 8 (and of column g of the right matrix): one 16-byte read.
// The hardware's own order, t, t + 4, ..., would take four.
#pragma once
#include <cstring>

#include "../device.h"

namespace mma {

enum Precision { kTF32x3, kBF16 };
template <Precision P>
struct WeightOf {
  using type = float;
};
template <>
struct WeightOf<kBF16> {
  using type = bf16;
};

template <Precision P>
struct Operand {  // 4 neighbouring numbers of a row of the left matrix, or of a column of the right one
  uint32_t x[P == kBF16 ? 2 : 4], low[P == kTF32x3 ? 4 : 1];
};
// TF32x3: a number is what its upper bits say and a rest. The left matrix is rounded, by an integer addition; the right
// one, of which there is more, cut off. (cvt.rna.tf32 is four instructions on sm_90.) A NaN may drop out of x, but is
// in the rest.
template <Precision P, bool kLeft = false>
__device__ __forceinline__ Operand<P> operand(const Vec<float, 4>& a) {
  Operand<P> o;
  if constexpr (P == kBF16) {
    o.x[0] = pack_bf16(a.v[0], a.v[1]), o.x[1] = pack_bf16(a.v[2], a.v[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      o.x[i] = (__float_as_uint(a.v[i]) + (kLeft ? 0x1000 : 0)) & 0xFFFFE000;
      o.low[i] = __float_as_uint(a.v[i] - __uint_as_float(o.x[i]));
    }
  }
  return o;
}
template <Precision P>
__device__ __forceinline__ Operand<P> operand(const Vec<bf16, 4>& a) {
  static_assert(P == kBF16);
  Operand<P> o;
  memcpy(o.x, &a, sizeof a);
  return o;
}

__device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t* top, const uint32_t* bottom,
                                              const uint32_t* right) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    mma_tf32(c, {top[i], bottom[i], top[i + 1], bottom[i + 1]}, {right[i], right[i + 1]});
  }
}

// c [16 x 8] += left [16 x 16] right [16 x 8]; top and bottom: of rows g and g + 8. The smallest products come first.
template <Precision P>
__device__ __forceinline__ void multiply(float (&c)[4], const Operand<P>& top, const Operand<P>& bottom,
                                         const Operand<P>& right) {
  if constexpr (P == kBF16) {
    mma_bf16(c, {top.x[0], bottom.x[0], top.x[1], bottom.x[1]}, {right.x[0], right.x[1]});
  } else {
    multiply_tf32(c, top.low, bottom.low, right.x);
    multiply_tf32(c, top.x, bottom.x, right.low);
    multiply_tf32(c, top.x, bottom.x, right.x);
  }
}

}  // namespace mma
