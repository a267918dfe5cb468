// Large uninitialised arrays. Huge pages are requested where the system offers them: page faults on small pages cost
// more than a pass of a radix sort.
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
    const size_t alignment = large ? kPage : 64;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
    if (!data_) {
      throw std::bad_alloc();
    }
#ifdef MADV_HUGEPAGE
    if (large) {
      madvise(data_, bytes, MADV_HUGEPAGE);
    }
#endif
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return data_; }

 private:
  T* data_;
};

}  // namespace ordkernels::host
