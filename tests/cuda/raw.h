// For test programs without torch: pointers as kernels take them, and what is exported.
#pragma once
#include <string>

#include "cuda/device.h"

#define API extern "C" __attribute__((visibility("default")))

template <class T>
Out<T> pointer(T* p, [[maybe_unused]] int64_t n) {
#ifdef __CUDACC__
  return p;
#else
  return {p, 0, n};
#endif
}
