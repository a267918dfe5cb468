// What the ops share that have one row a thread.
#pragma once
#include "kernels/row_tile.h"
#include "torch.h"

// Threads, and rows, of a block whose rows take `bytes` of shared memory each: as many as leave room for other blocks.
inline int64_t row_threads(const char* name, const OnDevice& on, int64_t bytes) {
  for (int64_t threads = 128; threads > 32; threads /= 2) {
    if (threads * bytes <= 48 << 10) {
      return threads;
    }
  }
  STD_TORCH_CHECK(32 * bytes + 64 <= most_shared(on.index), name,
                  ": rows of so many columns do not fit into shared memory");
  return 32;
}

template <class T>
size_t tiles_bytes(int64_t threads, int64_t K, int tiles) {
  return tiles * tile_bytes<Compute<T>>(threads, K);
}
