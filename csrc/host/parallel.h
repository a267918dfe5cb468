// Threads for the data-side kernels: started for one call and joined before it returns, so nothing survives a fork.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace ordkernels::host {

// Calls body(chunk) for every chunk in [0, chunks), handed out in order to `threads` threads, the caller among them.
// The first exception of any thread stops the hand-out and is rethrown here.
template <class Body>
void parallel_for(int64_t chunks, int threads, const Body& body) {
  const int extra = static_cast<int>(std::min<int64_t>(threads, chunks)) - 1;
  if (extra <= 0) {
    for (int64_t c = 0; c < chunks; ++c) {
      body(c);
    }
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex lock;
  auto work = [&] {
    try {
      for (int64_t c; (c = next.fetch_add(1)) < chunks;) {
        body(c);
      }
    } catch (...) {
      next.store(chunks);
      std::lock_guard<std::mutex> hold(lock);
      if (!error) {
        error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(extra);
  for (int i = 0; i < extra; ++i) {
    try {
      pool.emplace_back(work);
    } catch (...) {  // no more threads to be had: the ones there are do all the work
      break;
    }
  }
  work();
  for (auto& t : pool) {
    t.join();
  }
  if (error) {
    std::rethrow_exception(error);
  }
}

}  // namespace ordkernels::host
