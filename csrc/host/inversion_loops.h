// Inversions of few keys, and across digits: the loops of inversions.cpp for one instruction set (see per_isa.h).
// Products are rounded before they are added, so that the sums are the same on every instruction set.

namespace ordkernels::host::ORD_ISA {

typedef double Double16 __attribute__((vector_size(128), may_alias));
typedef int64_t Int64x16 __attribute__((vector_size(128), may_alias));

ORD_TARGET inline Double16 masked(const Double16& v, const int64_t* mask) {
  return reinterpret_cast<Double16>(reinterpret_cast<Int64x16>(v) & *reinterpret_cast<const Int64x16*>(mask));
}

template <class K>
ORD_TARGET void key_range(const K* __restrict a, int64_t n, K* low, K* high) {
  K l = a[0], h = a[0];
#pragma omp simd reduction(min : l) reduction(max : h)
  for (int64_t i = 0; i < n; ++i) {
    l = a[i] < l ? a[i] : l;
    h = a[i] > h ? a[i] : h;
  }
  *low = l;
  *high = h;
}

// Of a[0, n), n < 2^16: how many pairs i < j have digit(i) > digit(j), and each digit's count. A digit is a byte of two
// halves of four bits. Lane d of `high` says how many high halves so far were above d, lane d of `low[h]` how many low
// halves among those with the high half h: a vector addition each, in place of a tree.
template <class K>
ORD_TARGET uint64_t count_digits(const K* __restrict a, int64_t n, K least, int shift, uint32_t* __restrict count) {
  using U = std::make_unsigned_t<K>;
  alignas(32) uint16_t high[16] = {}, low[16][16] = {};
  uint64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const unsigned d = static_cast<unsigned>((static_cast<U>(a[i]) - static_cast<U>(least)) >> shift);
    const unsigned h = d >> 4, l = d & 15;
    total += static_cast<uint32_t>(high[h]) + low[h][l];
    *reinterpret_cast<Uint16x16*>(high) += *reinterpret_cast<const Uint16x16*>(kLanesBelow.row[h]);
    *reinterpret_cast<Uint16x16*>(low[h]) += *reinterpret_cast<const Uint16x16*>(kLanesBelow.row[l]);
  }
  for (int h = 0; h < 16; ++h) {
    uint32_t before = h ? static_cast<uint32_t>(high[h - 1]) - high[h] : static_cast<uint32_t>(n) - high[0];
    for (int l = 0; l < 16; ++l) {
      count[16 * h + l] = before - low[h][l];
      before = low[h][l];
    }
  }
  return total;
}

// Of a[0, n), n < 2^16, digits below 16: as count_digits.
template <class K>
ORD_TARGET uint64_t count_nibbles(const K* __restrict a, int64_t n, K least, int shift, uint32_t* __restrict count) {
  using U = std::make_unsigned_t<K>;
  alignas(32) uint16_t above[16] = {};
  uint64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const unsigned d = static_cast<unsigned>((static_cast<U>(a[i]) - static_cast<U>(least)) >> shift);
    total += above[d];
    *reinterpret_cast<Uint16x16*>(above) += *reinterpret_cast<const Uint16x16*>(kLanesBelow.row[d]);
  }
  for (int d = 0; d < 16; ++d) {
    count[d] = (d ? above[d - 1] : static_cast<uint32_t>(n)) - above[d];
  }
  return total;
}

// The pairs i < j with a[i] > a[j], and those with a[i] == a[j].
template <class K>
ORD_TARGET void count_small(const K* a, int64_t n, int64_t* above, int64_t* equal) {
  using V = typename KeyVector<K>::V;
  constexpr int64_t kSize = KeyVector<K>::kSize;
  const V lane = *reinterpret_cast<const V*>(kLaneIndex<K>.lane);
  V more = {}, same = {};
  for (int64_t b = 0; b < n; b += kSize) {
    const V k = *reinterpret_cast<const V*>(a + b);
    V m = {}, s = {};
    for (int64_t i = 0; i < b; ++i) {
      const V x = a[i] - V{};
      m -= x > k;
      s -= x == k;
    }
    const int64_t remaining = n - b < kSize ? n - b : kSize;
    for (int64_t i = 0; i < remaining; ++i) {
      const V x = a[b + i] - V{}, later = lane > static_cast<K>(i);
      m -= (x > k) & later;
      s -= (x == k) & later;
    }
    const V inside = lane < static_cast<K>(remaining);
    more += m & inside;
    same += s & inside;
  }
  *above = *equal = 0;
  for (int l = 0; l < kSize; ++l) {
    *above += more[l];
    *equal += same[l];
  }
}

// The sums of w_i w_j over the pairs i < j of few rows with a[i] > a[j], and over those with a[i] < a[j].
template <class K>
ORD_TARGET void weigh_small(const K* __restrict a, const double* __restrict w, int64_t n, double* above,
                            double* below) {
  double more = 0, less = 0;
  for (int64_t i = 1; i < n; ++i) {
    const K k = a[i];
    double m = 0, l = 0;
    for (int64_t j = 0; j < i; ++j) {
      m += a[j] > k ? w[j] : 0;
      l += a[j] < k ? w[j] : 0;
    }
    more += m * w[i];
    less += l * w[i];
  }
  *above = more;
  *below = less;
}

// The same sums over the pairs of a[0, n) whose digits differ, and each digit's count and weight: as count_digits, with
// sums of weights in the lanes.
template <class K>
ORD_TARGET Inversions<true> weigh_digits(const K* __restrict a, const double* __restrict w, int64_t n, K least,
                                         int shift, uint32_t* __restrict count, double* __restrict weight) {
  using U = std::make_unsigned_t<K>;
  alignas(128) double high_above[16] = {}, high_below[16] = {}, low_above[16][16] = {}, low_below[16][16] = {};
  double more = 0, less = 0;
  for (int d = 0; d < 256; ++d) {
    count[d] = 0;
    weight[d] = 0;
  }
  for (int64_t i = 0; i < n; ++i) {
    const unsigned d = static_cast<unsigned>((static_cast<U>(a[i]) - static_cast<U>(least)) >> shift);
    const unsigned h = d >> 4, l = d & 15;
    more += w[i] * (high_above[h] + low_above[h][l]);
    less += w[i] * (high_below[h] + low_below[h][l]);
    const Double16 v = w[i] - Double16{};
    *reinterpret_cast<Double16*>(high_above) += masked(v, kDigitLanes.below[h]);
    *reinterpret_cast<Double16*>(high_below) += masked(v, kDigitLanes.above[h]);
    *reinterpret_cast<Double16*>(low_above[h]) += masked(v, kDigitLanes.below[l]);
    *reinterpret_cast<Double16*>(low_below[h]) += masked(v, kDigitLanes.above[l]);
    ++count[d];
    weight[d] += w[i];
  }
  return {more, less};
}

}  // namespace ordkernels::host::ORD_ISA
