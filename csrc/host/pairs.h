// Pairs of rows in order and out of it, exactly, in O(n log n).
//
// Rows are sorted by (prediction, y); then the discordant pairs are the inversions of y. Both steps are the same radix
// sort, most significant digit first, eight bits of a range's own span a level: of the second only the pairs that the
// moves turn round are kept (a pair whose keys first differ in this digit). Blocks have a fixed size, so no result
// depends on the number of threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "host/parallel.h"
#include "host/scatter.h"

namespace ordkernels::host {

typedef uint16_t Halves __attribute__((vector_size(32), may_alias));
struct BelowTable {
  alignas(32) uint16_t row[16][16];
  constexpr const uint16_t* operator[](unsigned d) const { return row[d]; }
};
inline constexpr BelowTable kBelow = [] {  // lane l of row d: l < d
  BelowTable t{};
  for (int d = 0; d < 16; ++d) {
    for (int l = 0; l < 16; ++l) {
      t.row[d][l] = l < d;
    }
  }
  return t;
}();
template <class K>
struct LaneTable {
  alignas(32) K number[8];
};
template <class K>
inline constexpr LaneTable<K> kLane{{0, 1, 2, 3, 4, 5, 6, 7}};
inline uint32_t unsigned_of(int32_t);
inline uint64_t unsigned_of(int64_t);

}  // namespace ordkernels::host

#define ORD_ISA base
#define ORD_TARGET
#include "host/pairs_lanes.h"
#undef ORD_ISA
#undef ORD_TARGET
#define ORD_ISA avx2
#define ORD_TARGET __attribute__((target("avx2")))
#include "host/pairs_lanes.h"
#undef ORD_ISA
#undef ORD_TARGET
#define ORD_ISA avx512
#define ORD_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "host/pairs_lanes.h"
#undef ORD_ISA
#undef ORD_TARGET

namespace ordkernels::host {

constexpr int kDigits = 256;
constexpr int64_t kShared = 1 << 18;  // rows from which all threads work on one range

template <class K, bool W>
struct Row {
  K p, y;
};
template <class K>
struct Row<K, true> {
  K p, y;
  double w;
};

template <class K>
int digit_shift(K low, K high, int bits = 8) {
  using U = std::make_unsigned_t<K>;
  return std::max(static_cast<int>(std::bit_width(static_cast<U>(static_cast<U>(high) - static_cast<U>(low)))) - bits,
                  0);
}
template <class K>
unsigned digit(K k, K low, int shift) {
  using U = std::make_unsigned_t<K>;
  return static_cast<unsigned>((static_cast<U>(k) - static_cast<U>(low)) >> shift);
}

// ------------------------------------------------------------------------------------------------------- rows in order

// A stable sort of rows by p (Both: and then by y).
template <class R, bool Both>
class RowSort {
  using K = decltype(R::p);
  static constexpr int64_t kFew = sizeof(K) == 4 ? 64 : 32, kBlock = 1 << 16;

  static bool before(const R& a, const R& b) { return a.p < b.p || (Both && a.p == b.p && a.y < b.y); }

  // A few rows by their ranks, without a branch that depends on them; only ties are put right one by one.
  static void few(const R* from, R* to, int64_t n) {
    if (n < 2) {
      if (n) {
        *to = *from;
      }
      return;
    }
    alignas(32) K keys[kFew], rank[kFew];
    R rows[kFew];
    for (int64_t i = 0; i < n; ++i) {
      keys[i] = from[i].p, rows[i] = from[i];
    }
    for (int64_t i = n; i % (32 / sizeof(K)); ++i) {
      keys[i] = std::numeric_limits<K>::max();
    }
    ORD_DISPATCH(rank_few(keys, n, rank));
    for (int64_t i = 0; i < n; ++i) {
      to[rank[i]] = rows[i];
    }
    if constexpr (Both) {
      for (int64_t i = 1; i < n; ++i) {
        if (to[i].p != to[i - 1].p || to[i].y >= to[i - 1].y) {
          continue;
        }
        const R x = to[i];
        int64_t j = i;
        for (; j > 0 && before(x, to[j - 1]); --j) {
          to[j] = to[j - 1];
        }
        to[j] = x;
      }
    }
  }

  template <bool ByY>
  static K key(const R& r) {
    return ByY ? r.y : r.p;
  }

  template <bool ByY>
  static std::pair<K, K> range(const R* a, int64_t n) {
    K low = key<ByY>(a[0]), high = low;
    for (int64_t i = 1; i < n; ++i) {
      low = std::min(low, key<ByY>(a[i]));
      high = std::max(high, key<ByY>(a[i]));
    }
    return {low, high};
  }

  // The rows of `a`, sorted, into `b` (to_b) or back into `a`.
  template <bool ByY>
  static void sort(R* a, R* b, int64_t n, bool to_b, int threads) {
    if (n <= kFew) {
      return few(a, to_b ? b : a, n);
    }
    if (n >= kShared) {
      return sort_shared<ByY>(a, b, n, to_b, threads);
    }
    const auto [low, high] = range<ByY>(a, n);
    if (low == high) {
      if constexpr (Both && !ByY) {
        return sort<true>(a, b, n, to_b, threads);
      }
      if (to_b) {
        std::copy_n(a, n, b);
      }
      return;
    }
    const int bits = std::clamp<int>(std::bit_width(static_cast<uint64_t>(n)) - 5, 3, 8),
              shift = digit_shift(low, high, bits);
    uint32_t next[kDigits];  // as far as there are digits
    const int64_t digits = int64_t(1) << bits;
    std::fill_n(next, digits, 0);
    for (int64_t i = 0; i < n; ++i) {
      ++next[digit(key<ByY>(a[i]), low, shift)];
    }
    for (uint32_t d = 0, sum = 0; d < digits; ++d) {
      sum += std::exchange(next[d], sum);
    }
    scatter(a, n, b, next, [&](const R& r) { return digit(key<ByY>(r), low, shift); });
    for (int64_t d = 0, begin = 0; d < digits && begin < n; begin = next[d++]) {  // next: now the ends
      if (next[d] > begin) {
        sort<ByY>(b + begin, a + begin, next[d] - begin, !to_b, 1);
      }
    }
  }

  template <bool ByY>
  static void sort_shared(R* a, R* b, int64_t n, bool to_b, int threads) {
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    auto size = [&](int64_t c) { return std::min(kBlock, n - c * kBlock); };
    std::vector<std::pair<K, K>> ranges(blocks);
    parallel_for(blocks, threads, [&](int64_t c) { ranges[c] = range<ByY>(a + c * kBlock, size(c)); });
    auto [low_, high_] = ranges[0];
    for (const auto& [l, h] : ranges) {
      low_ = std::min(low_, l), high_ = std::max(high_, h);
    }
    const K low = low_, high = high_;
    if (low == high) {
      if constexpr (Both && !ByY) {
        return sort_shared<true>(a, b, n, to_b, threads);
      }
      if (to_b) {
        parallel_for(blocks, threads, [&](int64_t c) { std::copy_n(a + c * kBlock, size(c), b + c * kBlock); });
      }
      return;
    }
    const int shift = digit_shift(low, high);
    std::vector<int64_t> next(blocks * kDigits, 0), start(kDigits + 1);
    parallel_for(blocks, threads, [&](int64_t c) {
      uint32_t count[kDigits] = {};
      for (const R *r = a + c * kBlock, *end = r + size(c); r < end; ++r) {
        ++count[digit(key<ByY>(*r), low, shift)];
      }
      std::copy_n(count, kDigits, next.data() + c * kDigits);
    });
    int64_t sum = 0;
    for (int d = 0; d < kDigits; ++d) {
      start[d] = sum;
      for (int64_t c = 0; c < blocks; ++c) {
        sum += std::exchange(next[c * kDigits + d], sum);
      }
    }
    start[kDigits] = n;
    parallel_for(blocks, threads, [&](int64_t c) {
      scatter(a + c * kBlock, size(c), b, next.data() + c * kDigits,
              [&](const R& r) { return digit(key<ByY>(r), low, shift); });
    });
    auto child = [&](int64_t d, int with) {
      sort<ByY>(b + start[d], a + start[d], start[d + 1] - start[d], !to_b, with);
    };
    auto shared = [&](int64_t d) { return start[d + 1] - start[d] >= kShared; };
    for (int64_t d = 0; d < kDigits; ++d) {
      if (shared(d)) {
        child(d, threads);
      }
    }
    parallel_for(kDigits, threads, [&](int64_t d) {
      if (!shared(d) && start[d] < start[d + 1]) {
        child(d, 1);
      }
    });
  }

 public:
  static void run(R* a, R* spare, int64_t n, int threads) {
    if (n) {
      sort<false>(a, spare, n, false, threads);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------- inversions

template <bool W>
using Count = std::conditional_t<W, double, int64_t>;

// Pairs i < j with key_i > key_j, and those with equal keys (W: the sums of their w_i w_j).
template <bool W>
struct Inversions {
  Count<W> above = 0, equal = 0;
  void operator+=(const Inversions& o) { above += o.above, equal += o.equal; }
};

template <bool W>
Count<W> pairs_of(int64_t n, double sum, double squares) {
  if constexpr (W) {
    return std::max(sum * sum - squares, 0.0) / 2;
  }
  return n % 2 ? n * ((n - 1) / 2) : n / 2 * (n - 1);
}

// Keys and, W, their weights (else null). What it counts it also sorts, to and fro between the two arrays.
template <class K, bool W>
class InversionCount {
  static constexpr int64_t kFew = sizeof(K) == 4 ? 64 : 32, kSome = 16 * kFew, kBlock = W ? 4096 : 1 << 15;

  struct Arrays {
    K* key;
    double* w;
    Arrays at(int64_t i) const { return {key + i, W ? w + i : nullptr}; }
  };

  static Inversions<W> few(Arrays a, int64_t n) {
    Inversions<W> t;
    if constexpr (W) {
      ORD_DISPATCH(weigh_each(a.key, a.w, n, &t.above, &t.equal));
    } else {
      alignas(32) K keys[kFew];
      for (int64_t i = 0; i < n; ++i) {
        keys[i] = a.key[i];
      }
      for (int64_t i = n; i % (32 / sizeof(K)); ++i) {
        keys[i] = std::numeric_limits<K>::max();
      }
      ORD_DISPATCH(count_few(keys, n, &t.above, &t.equal));
    }
    return t;
  }

  static Inversions<W> all_equal(Arrays a, int64_t n) {
    double sum = 0, squares = 0;
    if constexpr (W) {
      for (int64_t i = 0; i < n; ++i) {
        sum += a.w[i], squares += a.w[i] * a.w[i];
      }
    }
    return {0, pairs_of<W>(n, sum, squares)};
  }

  // One block: the pairs that differ in the digit, and each digit's count and (W) weight.
  static Count<W> block(Arrays a, int64_t n, K low, int shift, uint32_t* count, double* weight) {
    if constexpr (!W) {
      return static_cast<int64_t>(ORD_DISPATCH(count_digits(a.key, n, low, shift, count)));
    } else {
      double high[16] = {}, lows[16][16] = {}, total = 0;  // as in count_digits
      std::fill_n(count, kDigits, 0);
      std::fill_n(weight, kDigits, 0.0);
      for (int64_t i = 0; i < n; ++i) {
        const unsigned d = digit(a.key[i], low, shift), h = d >> 4, l = d & 15;
        total += a.w[i] * (high[h] + lows[h][l]);
        for (unsigned j = 0; j < 16; ++j) {
          high[j] += j < h ? a.w[i] : 0, lows[h][j] += j < l ? a.w[i] : 0;
        }
        ++count[d];
        weight[d] += a.w[i];
      }
      return total;
    }
  }

  static void scatter_keys(Arrays a, Arrays b, int64_t n, K low, int shift, auto* next) {
    if constexpr (W) {
      for (int64_t i = 0; i < n; ++i) {
        const auto to = next[digit(a.key[i], low, shift)]++;
        b.key[to] = a.key[i];
        b.w[to] = a.w[i];
      }
    } else {
      scatter(a.key, n, b.key, next, [&](K k) { return digit(k, low, shift); });
    }
  }

  static Inversions<W> count(Arrays a, Arrays b, int64_t n, int threads) {
    if (n < 2) {
      return {};
    }
    if (n <= kFew) {
      return few(a, n);
    }
    if (n > kBlock) {
      return count_blocks(a, b, n, threads);
    }
    K low, high;
    ORD_DISPATCH(key_range(a.key, n, &low, &high));
    if (low == high) {
      return all_equal(a, n);
    }
    const bool some = !W && n <= kSome;
    const int shift = digit_shift(low, high, some ? 4 : 8);
    const int64_t digits = some ? 16 : kDigits;
    uint32_t next[kDigits];
    double weight[W ? kDigits : 1];
    Inversions<W> total;
    if (some) {
      total.above = static_cast<Count<W>>(ORD_DISPATCH(count_nibbles(a.key, n, low, shift, next)));
    } else {
      total.above = block(a, n, low, shift, next, weight);
    }
    for (uint32_t d = 0, sum = 0; d < digits; ++d) {
      sum += std::exchange(next[d], sum);
    }
    scatter_keys(a, b, n, low, shift, next);
    for (int64_t d = 0, begin = 0; d < digits && begin < n; begin = next[d++]) {
      if (next[d] > begin + 1) {
        total += count(b.at(begin), a.at(begin), next[d] - begin, 1);
      }
    }
    return total;
  }

  static Inversions<W> count_blocks(Arrays a, Arrays b, int64_t n, int threads) {
    if (n < kShared) {
      threads = 1;
    }
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    auto size = [&](int64_t c) { return std::min(kBlock, n - c * kBlock); };
    std::vector<std::pair<K, K>> ranges(blocks);
    parallel_for(blocks, threads, [&](int64_t c) {
      ORD_DISPATCH(key_range(a.key + c * kBlock, size(c), &ranges[c].first, &ranges[c].second));
    });
    auto [low_, high_] = ranges[0];
    for (const auto& [l, h] : ranges) {
      low_ = std::min(low_, l), high_ = std::max(high_, h);
    }
    const K low = low_, high = high_;
    if (low == high) {
      return all_equal(a, n);
    }
    const int shift = digit_shift(low, high);
    std::vector<uint32_t> counts(blocks * kDigits);
    std::vector<double> weights(W ? blocks * kDigits : 1);
    std::vector<Count<W>> within(blocks);
    auto weight = [&](int64_t c) { return weights.data() + (W ? c * kDigits : 0); };
    parallel_for(blocks, threads, [&](int64_t c) {
      within[c] = block(a.at(c * kBlock), size(c), low, shift, counts.data() + c * kDigits, weight(c));
    });
    // Pairs across blocks: those of an earlier block whose digit is above.
    Inversions<W> total;
    std::vector<Count<W>> seen(kDigits, 0);
    for (int64_t c = 0; c < blocks; ++c) {
      const uint32_t* mine = counts.data() + c * kDigits;
      Count<W> above = 0, across = 0;
      for (int d = kDigits - 1; d >= 0; --d) {
        const Count<W> here = W ? static_cast<Count<W>>(weight(c)[W ? d : 0]) : static_cast<Count<W>>(mine[d]);
        across += here * above;
        above += std::exchange(seen[d], seen[d] + here);
      }
      total.above += across + within[c];
    }
    std::vector<int64_t> next(blocks * kDigits), start(kDigits + 1);
    int64_t sum = 0;
    for (int d = 0; d < kDigits; ++d) {
      start[d] = sum;
      for (int64_t c = 0; c < blocks; ++c) {
        next[c * kDigits + d] = sum;
        sum += counts[c * kDigits + d];
      }
    }
    start[kDigits] = n;
    parallel_for(blocks, threads,
                 [&](int64_t c) { scatter_keys(a.at(c * kBlock), b, size(c), low, shift, next.data() + c * kDigits); });
    std::vector<Inversions<W>> each(kDigits);
    auto child = [&](int64_t d, int with) {
      each[d] = count(b.at(start[d]), a.at(start[d]), start[d + 1] - start[d], with);
    };
    auto shared = [&](int64_t d) { return start[d + 1] - start[d] >= kShared; };
    for (int64_t d = 0; d < kDigits; ++d) {
      if (shared(d)) {
        child(d, threads);
      }
    }
    parallel_for(kDigits, threads, [&](int64_t d) {
      if (!shared(d)) {
        child(d, 1);
      }
    });
    for (const auto& t : each) {
      total += t;
    }
    return total;
  }

 public:
  static Inversions<W> run(K* key, double* w, K* spare_key, double* spare_w, int64_t n, int threads) {
    return count({key, w}, {spare_key, spare_w}, n, threads);
  }
};

// --------------------------------------------------------------------------------------------------------------- runs

constexpr int64_t kRunChunk = 1 << 16;

// Calls body(begin, end, chunk) for every run of equal(row, next row) among rows [0, n), each in the chunk where it
// begins.
template <class Equal, class Body>
void for_each_run(int64_t n, int threads, const Equal& equal, const Body& body) {
  parallel_for((n + kRunChunk - 1) / kRunChunk, threads, [&](int64_t c) {
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

template <bool W>
struct PairCount {
  Count<W> discordant = 0, tied = 0, pairs = 0;  // tied in the prediction; pairs: all of different y
};

// rows [n] are overwritten; `spare` has room for as many. Reference: rows stay in their order where predictions tie;
// no weights.
template <class K, bool W, bool Reference>
PairCount<W> count_pairs(Row<K, W>* rows, Row<K, W>* spare, int64_t n, int threads) {
  using R = Row<K, W>;
  RowSort<R, !Reference>::run(rows, spare, n, threads);
  K* y = reinterpret_cast<K*>(spare);
  // [n] keys, then [n] weights: together no longer than the rows, and aligned, whatever n is
  double* w = W ? reinterpret_cast<double*>(reinterpret_cast<char*>(spare) + (n * sizeof(K) + 7) / 8 * 8) : nullptr;
  const int64_t chunks = (n + kRunChunk - 1) / kRunChunk;
  std::vector<Count<W>> same(chunks, 0);
  std::vector<double> sums(W ? 2 * chunks : 0, 0.0);
  for_each_run(
      n, threads, [&](int64_t i, int64_t j) { return rows[i].p == rows[j].p; },
      [&](int64_t i, int64_t j, int64_t c) {
        if (!W && j == i + 1) {
          y[i] = rows[i].y;
          return;
        }
        double sum = 0, squares = 0;
        Count<W> both = 0;
        for (int64_t r = i; r < j; ++r) {
          y[r] = rows[r].y;
          if constexpr (W) {
            w[r] = rows[r].w, sum += w[r], squares += w[r] * w[r];
          }
        }
        const K* labels = y + i;
        std::vector<K> sorted;
        if constexpr (Reference) {
          sorted.assign(labels, labels + (j - i));
          std::sort(sorted.begin(), sorted.end());
          labels = sorted.data();
        }
        for (int64_t r = 0, end; r < j - i; r = end) {
          double part = 0, part_squares = 0;
          for (end = r; end < j - i && labels[end] == labels[r]; ++end) {
            if constexpr (W) {
              part += w[i + end], part_squares += w[i + end] * w[i + end];
            }
          }
          both += pairs_of<W>(end - r, part, part_squares);
        }
        same[c] += pairs_of<W>(j - i, sum, squares) - both;
        if constexpr (W) {
          sums[2 * c] += sum, sums[2 * c + 1] += squares;
        }
      });
  PairCount<W> out;
  double sum = 0, squares = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    out.tied += same[c];
    if constexpr (W) {
      sum += sums[2 * c], squares += sums[2 * c + 1];
    }
  }
  K* spare_y = reinterpret_cast<K*>(rows);
  double* spare_w =
      W ? reinterpret_cast<double*>(reinterpret_cast<char*>(rows) + (n * sizeof(K) + 7) / 8 * 8) : nullptr;
  const Inversions<W> found = InversionCount<K, W>::run(y, w, spare_y, spare_w, n, threads);
  out.discordant = found.above;
  out.pairs = pairs_of<W>(n, sum, squares) - found.equal;
  return out;
}

}  // namespace ordkernels::host
