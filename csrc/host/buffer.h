// Large arrays without initial values. Where the system offers large pages they are asked for: first touches of small
// ones cost more than a pass of a radix sort.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace ordkernels::host {

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n) {
    constexpr size_t kPage = size_t(1) << 21;
    size_t bytes = static_cast<size_t>(n > 0 ? n : 1) * sizeof(T);
    const bool large = bytes >= 2 * kPage;
    const size_t align = large ? kPage : 64;
    bytes = (bytes + align - 1) / align * align;
    p_ = static_cast<T*>(std::aligned_alloc(align, bytes));
    if (!p_) {
      throw std::bad_alloc();
    }
#ifdef MADV_HUGEPAGE
    if (large) {
      madvise(p_, bytes, MADV_HUGEPAGE);
    }
#endif
  }
  ~Buffer() { std::free(p_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return p_; }

 private:
  T* p_;
};

}  // namespace ordkernels::host
