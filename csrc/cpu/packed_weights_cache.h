// Weights that are packed once and used again, as long as the next call brings the very same ones.
#pragma once
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

// What the calling thread packed last, with a copy of its sources: for one row, packing takes as long as half of a
// chain, and comparing a tenth of that. Compared bit for bit, so a weight changed in any way counts at once. Packed
// from the copy: another thread may be changing the sources, and what is packed has to be what is compared.
class PackedWeightsCache {
 public:
  struct Source {
    const void*& data;  // the caller's pointer: to its tensor, and after `lookup` to the copy
    int64_t bytes;
  };

  char* packed = nullptr;
  bool ready =
      false;  // `packed` was made from these very sources, of this shape; else the caller fills it and sets this

  ~PackedWeightsCache() { std::free(packed); }

  // Memory for `packed_bytes`, a multiple of 64, or null where that and the sources are too much to keep.
  // Op: a type of the op's own.
  template <class Op>
  static PackedWeightsCache* lookup(const std::array<int64_t, 8>& shape, int64_t packed_bytes,
                                    const std::vector<Source>& sources) {
    thread_local PackedWeightsCache cache;
    int64_t bytes = packed_bytes;
    for (const Source& s : sources) {
      bytes += s.bytes;
    }
    if (bytes > kMaxBytes) {
      return nullptr;
    }
    if (!cache.packed) {
      cache.packed = static_cast<char*>(std::aligned_alloc(64, kMaxBytes));
    }
    if (!cache.packed) {
      return nullptr;
    }
    cache.ready = cache.ready && shape == cache.shape_;
    cache.shape_ = shape;
    char* copy = cache.packed + packed_bytes;
    for (const Source& s : sources) {
      cache.ready = cache.ready && std::memcmp(copy, s.data, s.bytes) == 0;
      if (!cache.ready) {
        std::memcpy(copy, s.data, s.bytes);
      }
      s.data = copy;
      copy += s.bytes;
    }
    return &cache;
  }

 private:
  static constexpr int64_t kMaxBytes = 1 << 20;
  std::array<int64_t, 8> shape_ = {};
};
