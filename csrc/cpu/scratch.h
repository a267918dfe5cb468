// Scratch memory of the calling thread: cached, grown as needed, never throws (nothing may throw inside parallel_for).
#pragma once
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

inline void* thread_scratch(int64_t bytes) noexcept {
  struct Buffer {
    void* p = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(p); }
  };
  thread_local Buffer b;
  if (b.size < bytes) {
    std::free(b.p);
    const int64_t size = (bytes + 4095) / 4096 * 4096;
    b.p = std::aligned_alloc(64, size);
    b.size = b.p ? size : 0;
  }
  return b.p;
}

// parallel_for over [0, n) whose body gets scratch too; false when that could not be had (then nothing is complete).
template <class F>
bool parallel_with_scratch(int64_t n, int64_t grain, int64_t bytes, const F& body) {
  std::atomic<bool> ok = true;
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    if (void* const scratch = thread_scratch(bytes)) {
      body(begin, end, scratch);
    } else {
      ok = false;
    }
  });
  return ok;
}
