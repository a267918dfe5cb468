#include "host/radix_sort.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "host/scatter.h"

namespace ordkernels::host {

namespace {

template <class K>
K sort_key(const Keyed<K>& x) {
  return x.key;
}
int32_t sort_key(int32_t k) { return k; }
int64_t sort_key(int64_t k) { return k; }

// Least significant digit first, `Bits` bits a
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

}  // namespace

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

template void radix_sort(int32_t*, int64_t, std::vector<int32_t>&);
template void radix_sort(int64_t*, int64_t, std::vector<int64_t>&);
template void radix_sort(Keyed<int32_t>*, int64_t, std::vector<Keyed<int32_t>>&);
template void radix_sort(Keyed<int64_t>*, int64_t, std::vector<Keyed<int64_t>>&);

}  // namespace ordkernels::host
