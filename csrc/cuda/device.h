// What a kernel is written with. nvcc: thin names for CUDA and PTX. Any other compiler: the same names on the CPU
// (emulate.h).
//
// In<T>, Out<T>, Shared<T>: pointers to global and shared memory, checked when emulated; load<V> and store<V> move V
// neighbours at once.
#pragma once
#include <cstdint>
#include <utility>

template <class T, int V>
struct alignas(sizeof(T) * V) Vec {
  T v[V];
};

constexpr uint32_t kAll = 0xFFFFFFFF;  // lanes of a warp

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>
#include <string>

using bf16 = __nv_bfloat16;
template <class T>
using In = const T* __restrict__;
template <class T>
using Out = T* __restrict__;
template <class T>
using Shared = T*;

template <int V, class T>
__device__ __forceinline__ Vec<T, V> load(const T* p) {
  return *reinterpret_cast<const Vec<T, V>*>(p);
}
template <int V, class T>
__device__ __forceinline__ void store(T* p, const Vec<T, V>& x) {
  *reinterpret_cast<Vec<T, V>*>(p) = x;
}

struct SharedMemory {  // carves arrays out of the launch's dynamic shared memory, 16-byte aligned
  unsigned used = 0;
  template <class T>
  __device__ Shared<T> take(int n) {
    extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
    T* const p = reinterpret_cast<T*>(dynamic_shared_memory + used);
    used += (n * sizeof(T) + 15) / 16 * 16;
    return p;
  }
};
#define ORD_SHARED(T, name, n) __shared__ T name[n]  // a static array

template <int V, class T>
__device__ __forceinline__ void cp_async(Shared<T> to, const T* from) {
  constexpr int bytes = V * sizeof(T);
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  } else {
    static_assert(bytes == 4 || bytes == 8);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(bytes) : "memory");
  }
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>  // groups that may still be under way
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ float fast_exp2(float x) {  // one instruction each, good to 2^-22
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 p = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&p);
}

// c [16 x 8] += a [16 x 8] b [8 x 8]; in bf16 a [16 x 16] b [16 x 8], two to a word. Lane 4 g + t: c (g, 2 t), (g, 2 t
// + 1), (g + 8, 2 t), ...
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// kernel<<<...>>>, with leave for more than 48 KB of shared memory.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, void* stream, A&&... args) {
  cudaError_t e = cudaSuccess;
  if (shared > 48 << 10) {
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
  if (e == cudaSuccess) {
    kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(std::forward<A>(args)...);
    e = cudaGetLastError();
  }
  if (e != cudaSuccess) {
    throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(e));
  }
}
inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) != cudaSuccess) {
    throw std::runtime_error("no such CUDA device");
  }
  return value;
}
inline int multiprocessors(int device) { return attribute(cudaDevAttrMultiProcessorCount, device); }
inline int most_shared(int device) { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device); }

#else
#include "emulate.h"

template <class T>
using In = emu::Checked<const T>;
template <class T>
using Out = emu::Checked<T>;
template <class T>
using Shared = emu::Checked<T>;

struct bf16 {
  uint16_t bits;
};
using __half = _Float16;

template <int V, class T>
Vec<std::remove_const_t<T>, V> load(emu::Checked<T> p) {
  Vec<std::remove_const_t<T>, V> x;
  std::memcpy(&x, p.at(V, emu::kRead), sizeof x);
  return x;
}
template <int V, class T>
void store(emu::Checked<T> p, const Vec<T, V>& x) {
  std::memcpy(p.at(V, emu::kWrite), &x, sizeof x);
}
template <class T>
T __ldg(emu::Checked<const T> p) {
  return p[0];
}

struct SharedMemory {
  size_t used = 0;
  template <class T>
  Shared<T> take(int n) {
    T* const p = reinterpret_cast<T*>(emu::machine.shared.data() + used);
    used += (n * sizeof(T) + 15) / 16 * 16;
    if (used > emu::machine.dynamic) {
      emu::machine.fail("takes %zu bytes of dynamic shared memory, launched with %zu", used, emu::machine.dynamic);
    }
    return {p, 0, n};
  }
};
#define ORD_SHARED(T, name, n)                                                                     \
  const Shared<T> name(reinterpret_cast<T*>(emu::machine.shared.data() + emu::machine.place(       \
                                                                             []() -> const void* { \
                                                                               static char key;    \
                                                                               return &key;        \
                                                                             }(),                  \
                                                                             (n) * sizeof(T))),    \
                       0, n)

template <int V, class T>
void cp_async(Shared<T> to, In<T> from) {  // lands when it is waited for, and by the toss of a coin at once, too
  static_assert(V * sizeof(T) == 4 || V * sizeof(T) == 8 || V * sizeof(T) == 16);
  emu::Machine& m = emu::machine;
  const T* const source = from.at(V, emu::kRead);
  T* const target = to.check(V, emu::kWrite);
  m.now->copies.push_back({m.now->group, V * int(sizeof(T)), sizeof(T), target, source});
  if (m.draw(2)) {
    m.land(m.now->copies.back());
  }
}
inline void cp_async_commit() { ++emu::machine.now->group; }
template <int N>
void cp_async_wait() {
  emu::Fiber& f = *emu::machine.now;
  std::erase_if(f.copies, [&](const emu::Copy& c) { return c.group < f.group - N && (emu::machine.land(c), true); });
}

inline uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }
inline int32_t __float_as_int(float x) { return __builtin_bit_cast(int32_t, x); }
inline float __uint_as_float(uint32_t x) { return __builtin_bit_cast(float, x); }
inline float __int_as_float(int32_t x) { return __builtin_bit_cast(float, x); }
inline float __bfloat162float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
inline bf16 __float2bfloat16_rn(float x) {
  const uint32_t b = __float_as_uint(x);
  return {static_cast<uint16_t>(std::isnan(x) ? 0x7FFF : (b + 0x7FFF + (b >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __float2half_rn(float x) { return static_cast<__half>(x); }
inline uint32_t to_tf32(float x) {
  return std::isfinite(x) ? (__float_as_uint(x) + 0x1000) & ~0x1FFFu : __float_as_uint(x);
}
inline uint32_t pack_bf16(float low, float high) {
  return __float2bfloat16_rn(low).bits | uint32_t{__float2bfloat16_rn(high).bits} << 16;
}
inline float fast_exp2(float x) { return exp2f(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }
#define __expf expf
#define __logf logf
#define __frcp_rn(x) (1.0f / (x))
#define __fsqrt_rn sqrtf
#define __fdividef(x, y) ((x) / (y))
#define rsqrtf(x) (1.0f / sqrtf(x))

#define ORD_LINE int line = __builtin_LINE()
inline void __syncthreads(ORD_LINE) { emu::machine.sync_block(line); }
inline void __syncwarp(uint32_t mask = kAll, ORD_LINE) {
  emu::machine.rendezvous(mask, "__syncwarp", line, nullptr,
                          [=](void**) { emu::machine.warps[emu::machine.now->id / 32].step += mask == kAll; });
}
template <class T>
T __shfl_sync(uint32_t mask, T x, int from, int width = 32, ORD_LINE) {
  return emu::shuffle("__shfl_sync", line, mask, x, (emu::machine.now->id % 32 & -width) | (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T x, int with, int width = 32, ORD_LINE) {
  const int lane = emu::machine.now->id % 32, from = lane ^ with;
  return emu::shuffle("__shfl_xor_sync", line, mask, x, from < (lane & -width) + width ? from : lane);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T x, int by, int width = 32, ORD_LINE) {
  const int lane = emu::machine.now->id % 32, from = lane + by;
  return emu::shuffle("__shfl_down_sync", line, mask, x, from < (lane & -width) + width ? from : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, int x, ORD_LINE) {
  std::pair<int, uint32_t> mine{x, 0};
  emu::machine.rendezvous(mask, "__ballot_sync", line, &mine, [=](void** all) {
    const auto of = [=](int l) { return static_cast<std::pair<int, uint32_t>*>(all[l]); };
    uint32_t votes = 0;
    for (int l = 0; l < 32; ++l) {
      votes |= uint32_t{(mask >> l & 1) && of(l)->first} << l;
    }
    for (int l = 0; l < 32; ++l) {
      if (mask >> l & 1) {
        of(l)->second = votes;
      }
    }
  });
  return mine.second;
}
template <class T>
T atomicAdd(emu::Checked<T> p, std::type_identity_t<T> x) {  // other threads may come before
  emu::machine.wake(*emu::machine.now), emu::machine.next();
  T* const to = p.at(1, emu::kAtomic);
  return *to += x, *to - x;
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ORD_LINE) {
  emu::mma<8>(c, a, b, line);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ORD_LINE) {
  emu::mma<16>(c, a, b, line);
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, void* /*stream*/,
            A&&... args) {
  auto body = [&] { kernel(args...); };
  emu::machine.run(name, grid, block, shared, [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body);
}
inline int multiprocessors(int) { return 2; }  // few, so that small inputs go around a persistent kernel's loop
inline int most_shared(int) {
  const char* const s = std::getenv("ORDKERNELS_EMULATE_SHARED");
  return s ? std::atoi(s) : static_cast<int>(emu::kMostShared);
}
#endif
