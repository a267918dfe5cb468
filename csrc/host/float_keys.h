// Floats as integers of the same order.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace ordkernels::host {

template <class F>
using key_of = std::conditional_t<sizeof(F) == 4, int32_t, int64_t>;

template <class K>
inline constexpr K kMaxKey = std::numeric_limits<K>::max();

// The bits of a float as a signed integer with the same order: negative floats have their magnitude bits flipped.
// -0.0 comes just before 0.0; the map is its own inverse.
template <class K>
inline K flip(K bits) {
  return bits ^ ((bits >> (8 * sizeof(K) - 1)) & kMaxKey<K>);
}
template <class F>
inline key_of<F> to_key(F x) {
  key_of<F> k;
  std::memcpy(&k, &x, sizeof k);
  return flip(k);
}
template <class F>
inline F from_key(key_of<F> k) {
  k = flip(k);
  F x;
  std::memcpy(&x, &k, sizeof x);
  return x;
}

// Keys by which numbers of these types are compared, -0.0 equal to 0.0.
inline int64_t order_key(int64_t x) { return x; }
inline int32_t order_key(int32_t x) { return x; }
inline int64_t order_key(double x) { return to_key(x + 0.0); }
inline int32_t order_key(float x) { return to_key(x + 0.0f); }

}  // namespace ordkernels::host
