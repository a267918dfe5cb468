// What the most-significant-digit-first sorts of pairs share: digits of keys, and vectors of few keys.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace ordkernels::host {

constexpr int kDigits = 256;
constexpr int64_t kSharedSize = 1 << 18;  // keys from which all threads work on one range

// A digit is that many leading bits of a key's distance from the least key of its range.
template <class K>
int digit_shift(K least, K greatest, int bits = 8) {
  using U = std::make_unsigned_t<K>;
  const int width = std::bit_width(static_cast<U>(static_cast<U>(greatest) - static_cast<U>(least)));
  return std::max(width - bits, 0);
}
template <class K>
unsigned digit(K k, K least, int shift) {
  using U = std::make_unsigned_t<K>;
  return static_cast<unsigned>((static_cast<U>(k) - static_cast<U>(least)) >> shift);
}

// A range of at most kSmallSize keys is compared all with all: a vector of keys with each key in turn.
template <class K>
constexpr int64_t kSmallSize = sizeof(K) == 4 ? 64 : 32;

template <class K>
struct KeyVector {
  typedef K V __attribute__((vector_size(32), may_alias));
  static constexpr int64_t kSize = 32 / sizeof(K);
};

template <class K>
struct LaneIndex {
  alignas(32) K lane[8];
};
template <class K>
inline constexpr LaneIndex<K> kLaneIndex{{0, 1, 2, 3, 4, 5, 6, 7}};

// Fills up `keys`, of which there are n, to whole vectors with the largest key.
template <class K>
void pad_small(K* keys, int64_t n) {
  for (int64_t i = n; i % KeyVector<K>::kSize; ++i) {
    keys[i] = std::numeric_limits<K>::max();
  }
}

}  // namespace ordkernels::host
