// What a .cu file's op needs of torch's stable ABI: typed pointers, the device and its stream, where to register.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <tuple>

#include "device.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

#ifdef __CUDACC__
#define ORD_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(ordkernels_cuda, CUDA, m)

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

struct OnDevice {  // makes a tensor's device the current one; the stream that torch works on there
  int index;
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
  explicit OnDevice(const Tensor& t) : index(t.get_device_index()), guard(index) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  }
};

#else
#define ORD_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(ordkernels_cuda, CPU, m)

inline int64_t extent(const Tensor& t) {  // elements from the first to the last
  int64_t n = t.numel() > 0;
  for (int64_t i = 0; n && i < t.dim(); ++i) {
    n += (t.size(i) - 1) * t.stride(i);
  }
  return n;
}
template <class T>
In<T> in(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), 0, extent(t)};
}
template <class T>
Out<T> out(Tensor& t) {
  return {static_cast<T*>(t.mutable_data_ptr()), 0, extent(t)};
}

struct OnDevice {
  int index = 0;
  void* stream = nullptr;
  explicit OnDevice(const Tensor&) {}
};
#endif

template <class T>
In<T> in(const MaybeTensor& t) {  // empty for none
  return t ? in<T>(*t) : In<T>{};
}

// f of a value of the tensor's type: fp32, fp64, bf16 or fp16.
template <class F>
void for_dtype(const char* name, const Tensor& t, F f) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::BFloat16: return f(bf16{});
    case ScalarType::Half: return f(__half{});
    default: STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16");
  }
}
inline ScalarType compute_type(ScalarType t) { return t == ScalarType::Double ? t : ScalarType::Float; }

inline void check(const char* name, const Tensor& t, ScalarType type, std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(t.scalar_type() == type, name, ": its dtype does not fit the other arguments");
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  for (int64_t i = 0; same && i < t.dim(); ++i) {
    same = t.size(i) == shape.begin()[i];
  }
  STD_TORCH_CHECK(same, name, ": its shape does not fit the other arguments");
}
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline Tensor checked_contiguous(const char* name, const Tensor& t, ScalarType type,
                                 std::initializer_list<int64_t> shape) {
  check(name, t, type, shape);
  return as_contiguous(t);
}
inline MaybeTensor checked_contiguous(const char* name, const MaybeTensor& t, ScalarType type,
                                      std::initializer_list<int64_t> shape) {
  return t ? MaybeTensor(checked_contiguous(name, *t, type, shape)) : t;
}
inline bool aligned(const Tensor& t, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % bytes == 0;
}
inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }
