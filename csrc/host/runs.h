// Runs of equal rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "host/parallel.h"

namespace ordkernels::host {

constexpr int64_t kRunChunk = 1 << 16;
constexpr int64_t run_chunks(int64_t n) { return (n + kRunChunk - 1) / kRunChunk; }

// Calls body(begin, end, chunk) for every run of equal(row, next row) among rows [0, n), each in the chunk, one of
// run_chunks(n), where it begins.
template <class Equal, class Body>
void for_each_run(int64_t n, int threads, const Equal& equal, const Body& body) {
  parallel_for(run_chunks(n), threads, [&](int64_t c) {
    const int64_t end = std::min(n, (c + 1) * kRunChunk);
    int64_t i = c * kRunChunk;
    while (i < end && i > 0 && equal(i - 1, i)) {
      ++i;
    }
    while (i < end) {
      int64_t j = i + 1;
      while (j < n && equal(j - 1, j)) {
        ++j;
      }
      body(i, j, c);
      i = j;
    }
  });
}

}  // namespace ordkernels::host
