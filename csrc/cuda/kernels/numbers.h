// Storage types and the types that they are computed in: 16-bit numbers in fp32, fp32 and fp64 in themselves.
#pragma once
#include <math.h>  // overloads for float, in the global namespace

#include "../device.h"

template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T narrow(Compute<T> x) {
  if constexpr (sizeof(T) >= 4) {
    return x;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else {
    return __float2half_rn(x);
  }
}

// The sums of several numbers over a warp, the same in every lane.
template <class... A>
__device__ __forceinline__ void warp_sum(A&... a) {
#pragma unroll
  for (int m = 16; m > 0; m /= 2) {
    ((a += __shfl_xor_sync(kAll, a, m)), ...);
  }
}

template <class A>
__device__ __forceinline__ A not_a_number() {
  return static_cast<A>(NAN);
}
