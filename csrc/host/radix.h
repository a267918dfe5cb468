// Floats as integers of the same order, and radix sorts of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

namespace ordkernels::host {

template <class F>
using key_of = std::conditional_t<sizeof(F) == 4, int32_t, int64_t>;

// The bits of a float as a signed integer with the same order: negative floats have their magnitude bits flipped.
// -0.0 comes just before 0.0; the map is its own inverse.
template <class K>
inline constexpr K kMaxKey = std::numeric_limits<K>::max();

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

// What radix_sort orders by: a plain signed integer, or the .key of a struct that carries more.
template <class K, std::enable_if_t<std::is_integral_v<K>, int> = 0>
inline K sort_key(K k) {
  return k;
}
template <class P>
inline auto sort_key(const P& p) -> decltype(p.key) {
  return p.key;
}

// Sorts a[0, n) by its signed keys, stable; `spare` is grown to n items. Least significant digit first, `Bits` bits a
// digit, all histograms in one pass; digits that all keys share are skipped.
template <int Bits, class P>
void radix_sort_digits(P* a, int64_t n, std::vector<P>& spare) {
  using K = decltype(sort_key(*a));
  using U = std::make_unsigned_t<K>;
  constexpr int kDigits = (8 * sizeof(K) + Bits - 1) / Bits;
  constexpr int64_t kBins = int64_t(1) << Bits;
  constexpr U kSign = U(1) << (8 * sizeof(K) - 1);
  if (static_cast<int64_t>(spare.size()) < n) spare.resize(n);
  std::vector<int64_t> count(kDigits * kBins, 0);
  for (int64_t i = 0; i < n; ++i) {
    const U k = static_cast<U>(sort_key(a[i])) ^ kSign;
    for (int d = 0; d < kDigits; ++d) ++count[d * kBins + static_cast<int64_t>((k >> (d * Bits)) & (kBins - 1))];
  }
  P *from = a, *to = spare.data();
  for (int d = 0; d < kDigits; ++d) {
    int64_t* bin = count.data() + d * kBins;
    const U first = static_cast<U>(sort_key(from[0])) ^ kSign;
    if (bin[(first >> (d * Bits)) & (kBins - 1)] == n) continue;
    for (int64_t b = 0, sum = 0; b < kBins; ++b) sum += std::exchange(bin[b], sum);
    for (int64_t i = 0; i < n; ++i) {
      const U k = static_cast<U>(sort_key(from[i])) ^ kSign;
      to[bin[(k >> (d * Bits)) & (kBins - 1)]++] = from[i];
    }
    std::swap(from, to);
  }
  if (from != a) std::copy(from, from + n, a);
}

template <class P>
void radix_sort(P* a, int64_t n, std::vector<P>& spare) {
  if (n < 64) {
    std::sort(a, a + n, [](const P& x, const P& y) { return sort_key(x) < sort_key(y); });
  } else if (n < 4096) {
    radix_sort_digits<8>(a, n, spare);
  } else {
    radix_sort_digits<11>(a, n, spare);
  }
}

}  // namespace ordkernels::host
