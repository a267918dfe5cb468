// Floats as integers of the same order, and radix sorts of them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "host/scatter.h"

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
  if (static_cast<int64_t>(spare.size()) < n) {
    spare.resize(n);
  }
  std::vector<int64_t> count(kDigits * kBins, 0);
  for (int64_t i = 0; i < n; ++i) {
    const U k = static_cast<U>(sort_key(a[i])) ^ kSign;
    for (int d = 0; d < kDigits; ++d) {
      ++count[d * kBins + static_cast<int64_t>((k >> (d * Bits)) & (kBins - 1))];
    }
  }
  P *from = a, *to = spare.data();
  for (int d = 0; d < kDigits; ++d) {
    int64_t* bin = count.data() + d * kBins;
    const U first = static_cast<U>(sort_key(from[0])) ^ kSign;
    if (bin[(first >> (d * Bits)) & (kBins - 1)] == n) {
      continue;
    }
    for (int64_t b = 0, sum = 0; b < kBins; ++b) {
      sum += std::exchange(bin[b], sum);
    }
    scatter(from, n, to, bin,
            [&](const P& p) { return ((static_cast<U>(sort_key(p)) ^ kSign) >> (d * Bits)) & (kBins - 1); });
    std::swap(from, to);
  }
  if (from != a) {
    std::copy(from, from + n, a);
  }
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

// Puts the keys of the wanted ranks where a sort of a[0, n) would put them; the other places hold anything. `out` has
// room for n keys and is not `a`. One bucket pass over the leading bits of the keys' range, then sorts of those buckets
// that hold wanted ranks: wanted(begin, end) is asked of rising, disjoint ranges.
template <class K, class Wanted>
void select_ranks(const K* a, int64_t n, K* out, std::vector<K>& spare, std::vector<int64_t>& bins, Wanted&& wanted) {
  using U = std::make_unsigned_t<K>;
  K low = a[0], high = a[0];
  for (int64_t i = 1; i < n; ++i) {
    low = std::min(low, a[i]);
    high = std::max(high, a[i]);
  }
  const int digits = std::clamp<int>(std::bit_width(static_cast<uint64_t>(n)) - 2, 6, 12);
  const U range = static_cast<U>(high) - static_cast<U>(low);
  const int shift = std::max(static_cast<int>(std::bit_width(range)) - digits, 0);
  auto bin = [&](K k) { return static_cast<int64_t>((static_cast<U>(k) - static_cast<U>(low)) >> shift); };
  const int64_t count = int64_t(1) << digits;
  bins.assign(3 * count + 1, 0);
  int64_t *next = bins.data(), *step = next + count, *start = step + count;  // step: 1 in wanted buckets, else 0
  for (int64_t i = 0; i < n; ++i) {
    ++next[bin(a[i])];
  }
  for (int64_t b = 0, sum = 0; b < count; ++b) {
    start[b] = sum;
    sum += next[b];
    step[b] = sum > start[b] && wanted(start[b], sum);
    next[b] = start[b];
  }
  start[count] = n;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t b = bin(a[i]);
    out[next[b]] = a[i];  // an unwanted bucket keeps overwriting its first place
    next[b] += step[b];
  }
  if (shift == 0) {
    return;  // every bucket holds one key
  }
  for (int64_t b = 0; b < count; ++b) {
    if (step[b]) {
      radix_sort(out + start[b], start[b + 1] - start[b], spare);
    }
  }
}

}  // namespace ordkernels::host
