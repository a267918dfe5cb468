// Radix sort, and selection of ranks by one bucket pass.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace ordkernels::host {

// A row and what to sort it by.
template <class K>
struct Keyed {
  K key;
  int64_t row;
};

// Sorts a[0, n), items of int32_t, int64_t or Keyed of either, by their keys, stable; `spare` is grown as needed.
template <class P>
void radix_sort(P* a, int64_t n, std::vector<P>& spare);

extern template void radix_sort(int32_t*, int64_t, std::vector<int32_t>&);
extern template void radix_sort(int64_t*, int64_t, std::vector<int64_t>&);
extern template void radix_sort(Keyed<int32_t>*, int64_t, std::vector<Keyed<int32_t>>&);
extern template void radix_sort(Keyed<int64_t>*, int64_t, std::vector<Keyed<int64_t>>&);

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
