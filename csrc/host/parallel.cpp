// The thread pool of one call.
#include "host/parallel.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>
#include <vector>

namespace ordkernels::host {

void parallel_for(int64_t chunks, int threads, ChunkFunction body) {
  const int extra = static_cast<int>(std::min<int64_t>(threads, chunks)) - 1;
  if (extra <= 0) {
    for (int64_t c = 0; c < chunks; ++c) {
      body(c);
    }
    return;
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    try {
      for (int64_t c; (c = next.fetch_add(1)) < chunks;) {
        body(c);
      }
    } catch (const std::bad_alloc&) {
      next.store(chunks);
      failed.store(true);
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(extra);
  for (int i = 0; i < extra; ++i) {
    try {
      pool.emplace_back(work);
    } catch (...) {  // the system grants no more threads: those already started do all the work
      break;
    }
  }
  work();
  for (auto& thread : pool) {
    thread.join();
  }
  if (failed) {
    throw std::bad_alloc();
  }
}

}  // namespace ordkernels::host
