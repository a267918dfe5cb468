// Kernels that try the emulator itself: every feature once, then every mistake that it is to find. No torch.
#include "raw.h"

namespace {

__global__ void features(In<float> in, Out<float> out, Out<int> count, int n) {
  ORD_SHARED(float, sums, 32);
  SharedMemory memory;
  const Shared<float> x = memory.take<float>(blockDim.x * 4);
  const Shared<bf16> halves = memory.take<bf16>(blockDim.x);
  const int i = threadIdx.x, lane = i % 32, at = (blockIdx.x * blockDim.x + i) * 4;
  if (at < n) {
    cp_async<4>(x + 4 * i, in + at);
  }
  cp_async_commit();
  cp_async_wait<0>();
  if (at >= n) {
    store<4>(x + 4 * i, Vec<float, 4>{});
  }
  __syncthreads();
  const Vec<float, 4> v = load<4>(x + 4 * (blockDim.x - 1 - i));  // another thread's
  float s = v.v[0] + v.v[1] + v.v[2] + v.v[3];
  for (int m = 16; m > 0; m /= 2) {
    s += __shfl_down_sync(kAll, s, m);
  }
  s = __shfl_sync(kAll, s, 0);
  if (lane == 0) {
    sums[i / 32] = s;
  }
  halves[i] = __float2bfloat16_rn(__half2float(__float2half_rn(0.5f)));
  __syncwarp();
  const float half = __bfloat162float(halves[i ^ 1]);
  __syncthreads();
  if (i == 0) {
    float total = 0.0f;
    for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) {
      total += sums[w];
    }
    out[blockIdx.x] = total * half * 2.0f;
  }
  if (__ballot_sync(kAll, lane % 2) == 0xAAAAAAAAu && lane < 16) {
    const int pair = __shfl_xor_sync(0x0000FFFF, lane, 1);  // half a warp on its own
    if (pair == (lane ^ 1)) {
      atomicAdd(count + 0, 1);
    }
  }
}

template <int kBug>
__global__ void mistake(In<float> in, Out<float> out) {
  SharedMemory memory;
  const Shared<float> x = memory.take<float>(64);
  const int i = threadIdx.x, lane = i % 32;
  float local[4] = {};
  if constexpr (kBug == 0) {
    x[i] = in[i], out[i] = x[63 - i];  // no barrier
  }
  if constexpr (kBug == 1) {
    x[i] = in[i], __syncthreads(), out[i] = x[i + 1];  // past the end
  }
  if constexpr (kBug == 2) {
    out[i] = x[i];  // nobody wrote it
  }
  if constexpr (kBug == 3) {
    if (i < 40) {
      __syncthreads();
    }
  }  // not all threads
  if constexpr (kBug == 4) {
    if (i < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }  // at two places
  if constexpr (kBug == 5) {
    if (lane < 16) {
      out[i] = __shfl_xor_sync(kAll, 1.0f, 1);
    }
  }  // mask names absent lanes
  if constexpr (kBug == 6) {
    out[i] = __shfl_xor_sync(0x0000FFFF, 1.0f, 1);  // mask without the caller
  }
  if constexpr (kBug == 7) {
    if (lane < 16) {
      out[i] = __shfl_xor_sync(0x0000FFFF, 1.0f, 16);
    }
  }  // reads past the mask
  if constexpr (kBug == 8) {
    const Vec<float, 4> v = load<4>(in + (i / 8 * 4 + 1));
    out[i] = v.v[0];
  }  // misaligned
  if constexpr (kBug == 9) {
    out[i] = in[i + 1];  // global memory
  }
  if constexpr (kBug == 10) {
    cp_async<1>(x + i, in + i), cp_async_commit(), out[i] = x[i];  // no wait
  }
  if constexpr (kBug == 11) {
    x[i] = in[i];
    __syncthreads();
    const float y = x[63 - i];
    x[i] = y;
    out[i] = y;
  }  // read, then overwritten
  if constexpr (kBug == 12) {
    x[i] = in[i];
    const float y = __shfl_sync(kAll, 1.0f, 0);
    out[i] = x[i ^ 1] + y;
  }  // a shuffle is no fence
  if constexpr (kBug == 13) {
    for (int k = 0; k <= i % 5; ++k) {
      local[k] += in[i];
    }
    out[i] = local[0];
  }  // a local array
  if constexpr (kBug == 14) {
    memory.take<float>(1);  // more than was launched
  }
  if constexpr (kBug == 15) {
    if (i < 32) {
      __syncwarp();
    } else {
      return;
    }
    __syncthreads();
    out[i] = local[0];
  }  // after an early return
}

template <int... kBugs>
void run_mistake(int bug, In<float> in, Out<float> out, std::integer_sequence<int, kBugs...>) {
  ((bug == kBugs ? launch("mistake", &mistake<kBugs>, dim3(2), dim3(64), 256, nullptr, in, out) : void()), ...);
}

}  // namespace

// bug < 0: the features, in [n] -> out [3], count [1]. Else a mistake, [64] -> [64]. Null, or the message of the
// exception.
API const char* selftest(int bug, float* in, int n, float* out, int* count) {
  static std::string message;
  try {
    if (bug < 0) {
      launch("features", &features, dim3(3), dim3(128), 128 * 18, nullptr, pointer(in, n), pointer(out, 3),
             pointer(count, 1), n);
    } else {
      run_mistake(bug, pointer(in, 64), pointer(out, 64), std::make_integer_sequence<int, 16>{});
    }
    return nullptr;
  } catch (const std::exception& e) {
    return (message = e.what()).c_str();
  }
}
