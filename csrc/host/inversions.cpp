// A radix sort, most significant digit first, eight bits of a range's own span per level, of which only the pairs that
// the moves put in order are counted: pairs whose keys first differ in this digit. Blocks have a fixed size, so that no
// result depends on the number of threads.
#include "host/inversions.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "host/key_digits.h"
#include "host/parallel.h"
#include "host/scatter.h"

namespace ordkernels::host {

namespace {

typedef uint16_t Uint16x16 __attribute__((vector_size(32), may_alias));
struct LanesBelow {
  alignas(32) uint16_t row[16][16];
};
constexpr LanesBelow kLanesBelow = [] {  // lane l of row d: l < d
  LanesBelow t{};
  for (int d = 0; d < 16; ++d) {
    for (int l = 0; l < 16; ++l) {
      t.row[d][l] = l < d;
    }
  }
  return t;
}();

// Lane j of below[d] is all ones where j < d, of above[d] where j > d.
struct DigitLanes {
  alignas(128) int64_t below[16][16], above[16][16];
};
constexpr DigitLanes kDigitLanes = [] {
  DigitLanes t{};
  for (int d = 0; d < 16; ++d) {
    for (int j = 0; j < 16; ++j) {
      t.below[d][j] = j < d ? -1 : 0;
      t.above[d][j] = j > d ? -1 : 0;
    }
  }
  return t;
}();

}  // namespace

}  // namespace ordkernels::host

#define ORD_LOOPS "host/inversion_loops.h"
#include "host/per_isa.h"

namespace ordkernels::host {

namespace {

template <class K, bool Weighted>
class InversionCounter {
 public:
  using Keys = WeightedKeys<K, Weighted>;
  using Count = Inversions<Weighted>;

  // The inversions of a [n]; what it counts it also sorts, from a to b and back, until few keys are left.
  static Count count(Keys a, Keys b, int64_t n, int threads) {
    if (n < 2) {
      return {};
    }
    if (n <= kSmallSize<K>) {
      return count_small(a, n);
    }
    if (n > kBlock) {
      return count_blocks(a, b, n, threads);
    }
    K least, greatest;
    ORD_DISPATCH(key_range(a.key, n, &least, &greatest));
    if (least == greatest) {
      return count_equal(n);
    }
    const bool by_nibble = !Weighted && n <= kMediumSize;
    const int shift = digit_shift(least, greatest, by_nibble ? 4 : 8);
    const int64_t digits = by_nibble ? 16 : kDigits;
    uint32_t next[kDigits];
    double weight[Weighted ? kDigits : 1];
    Count total;
    if constexpr (Weighted) {
      total = weigh_digits(a, n, least, shift, next, weight);
    } else {
      total.above = static_cast<int64_t>(by_nibble ? ORD_DISPATCH(count_nibbles(a.key, n, least, shift, next))
                                                   : ORD_DISPATCH(count_digits(a.key, n, least, shift, next)));
    }
    for (uint32_t d = 0, sum = 0; d < digits; ++d) {
      sum += std::exchange(next[d], sum);
    }
    move_to_digits(a, b, n, least, shift, next);
    for (int64_t d = 0, begin = 0; d < digits && begin < n; begin = next[d++]) {  // next: now the ends
      if (next[d] > begin + 1) {
        total += count(b.at(begin), a.at(begin), next[d] - begin, 1);
      }
    }
    return total;
  }

 private:
  static constexpr int64_t kMediumSize = 16 * kSmallSize<K>, kBlock = Weighted ? 4096 : 1 << 15;

  static Count count_small(Keys a, int64_t n) {
    Count total;
    if constexpr (Weighted) {
      ORD_DISPATCH(weigh_small(a.key, a.w, n, &total.above, &total.below));
    } else {
      alignas(32) K keys[kSmallSize<K>];
      for (int64_t i = 0; i < n; ++i) {
        keys[i] = a.key[i];
      }
      pad_small(keys, n);
      ORD_DISPATCH(count_small(keys, n, &total.above, &total.equal));
    }
    return total;
  }

  static Count count_equal(int64_t n) {
    if constexpr (Weighted) {
      return {};
    } else {
      return {0, all_pairs(n)};
    }
  }

  // One block: the pairs that differ in the digit, and the count and the weight of each digit.
  static Count weigh_digits(Keys a, int64_t n, K least, int shift, uint32_t* count, double* weight)
    requires Weighted
  {
    return ORD_DISPATCH(weigh_digits(a.key, a.w, n, least, shift, count, weight));
  }

  static void move_to_digits(Keys a, Keys b, int64_t n, K least, int shift, auto* next) {
    if constexpr (Weighted) {
      for (int64_t i = 0; i < n; ++i) {
        const auto to = next[digit(a.key[i], least, shift)]++;
        b.key[to] = a.key[i];
        b.w[to] = a.w[i];
      }
    } else {
      scatter(a.key, n, b.key, next, [&](K k) { return digit(k, least, shift); });
    }
  }

  // As count, with all threads: blocks of keys are counted and moved at once, then each digit's keys are counted.
  static Count count_blocks(Keys a, Keys b, int64_t n, int threads) {
    if (n < kSharedSize) {
      threads = 1;
    }
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    const auto size = [&](int64_t c) { return std::min(kBlock, n - c * kBlock); };
    std::vector<std::pair<K, K>> ranges(blocks);
    parallel_for(blocks, threads, [&](int64_t c) {
      ORD_DISPATCH(key_range(a.key + c * kBlock, size(c), &ranges[c].first, &ranges[c].second));
    });
    K least = ranges[0].first, greatest = ranges[0].second;
    for (const auto& [low, high] : ranges) {
      least = std::min(least, low);
      greatest = std::max(greatest, high);
    }
    if (least == greatest) {
      return count_equal(n);
    }
    const int shift = digit_shift(least, greatest);
    std::vector<uint32_t> counts(blocks * kDigits);
    std::vector<double> weights(Weighted ? blocks * kDigits : 1);
    std::vector<Count> within(blocks);
    parallel_for(blocks, threads, [&](int64_t c) {
      const Keys block = a.at(c * kBlock);
      uint32_t* count = counts.data() + c * kDigits;
      if constexpr (Weighted) {
        within[c] = weigh_digits(block, size(c), least, shift, count, weights.data() + c * kDigits);
      } else {
        within[c].above = static_cast<int64_t>(ORD_DISPATCH(count_digits(block.key, size(c), least, shift, count)));
      }
    });
    Count total;
    if constexpr (Weighted) {
      total = weigh_across(weights);
    } else {
      total.above = count_across(counts);
    }
    for (const auto& count_of_block : within) {
      total += count_of_block;
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
    parallel_for(blocks, threads, [&](int64_t c) {
      move_to_digits(a.at(c * kBlock), b, size(c), least, shift, next.data() + c * kDigits);
    });
    return count_each_digit(b, a, start, total, threads);
  }

  // Pairs of rows of different blocks, the earlier of which has the greater digit. counts [blocks, kDigits].
  static int64_t count_across(const std::vector<uint32_t>& counts) {
    int64_t total = 0;
    std::vector<int64_t> seen(kDigits, 0);
    for (size_t c = 0; c < counts.size(); c += kDigits) {
      int64_t above = 0;
      for (int d = kDigits - 1; d >= 0; --d) {
        const int64_t here = counts[c + d];
        total += here * above;
        above += std::exchange(seen[d], seen[d] + here);
      }
    }
    return total;
  }

  // The same of weights [blocks, kDigits], both ways.
  static Count weigh_across(const std::vector<double>& weights)
    requires Weighted
  {
    Count total;
    std::vector<double> seen(kDigits, 0);
    for (size_t c = 0; c < weights.size(); c += kDigits) {
      const double* here = weights.data() + c;
      double above = 0, below = 0;
      for (int d = kDigits - 1; d >= 0; --d) {
        total.above += here[d] * above;
        above += seen[d];
      }
      for (int d = 0; d < kDigits; ++d) {
        total.below += here[d] * below;
        below += std::exchange(seen[d], seen[d] + here[d]);
      }
    }
    return total;
  }

  // `total`, and the inversions of each digit's keys, from start[d] to start[d + 1] of a: long ranges one by one with
  // all threads, then the rest.
  static Count count_each_digit(Keys a, Keys b, const std::vector<int64_t>& start, Count total, int threads) {
    std::vector<Count> each(kDigits);
    const auto count_digit = [&](int64_t d, int with) {
      each[d] = count(a.at(start[d]), b.at(start[d]), start[d + 1] - start[d], with);
    };
    const auto is_shared = [&](int64_t d) { return start[d + 1] - start[d] >= kSharedSize; };
    for (int64_t d = 0; d < kDigits; ++d) {
      if (is_shared(d)) {
        count_digit(d, threads);
      }
    }
    parallel_for(kDigits, threads, [&](int64_t d) {
      if (!is_shared(d)) {
        count_digit(d, 1);
      }
    });
    for (const auto& count_of_digit : each) {
      total += count_of_digit;
    }
    return total;
  }
};

}  // namespace

template <class K, bool Weighted>
Inversions<Weighted> count_inversions(WeightedKeys<K, Weighted> keys, WeightedKeys<K, Weighted> spare, int64_t n,
                                      int threads) {
  return InversionCounter<K, Weighted>::count(keys, spare, n, threads);
}

template Inversions<false> count_inversions(WeightedKeys<int32_t, false>, WeightedKeys<int32_t, false>, int64_t, int);
template Inversions<false> count_inversions(WeightedKeys<int64_t, false>, WeightedKeys<int64_t, false>, int64_t, int);
template Inversions<true> count_inversions(WeightedKeys<int64_t, true>, WeightedKeys<int64_t, true>, int64_t, int);

}  // namespace ordkernels::host
