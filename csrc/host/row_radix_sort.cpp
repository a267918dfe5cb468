// A radix sort, most significant digit first, up to eight bits of a range's own span per level.
#include "host/row_radix_sort.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "host/key_digits.h"
#include "host/parallel.h"
#include "host/scatter.h"

#define ORD_LOOPS "host/row_radix_sort_loops.h"
#include "host/per_isa.h"

namespace ordkernels::host {

namespace {

template <class K, bool Weighted>
class RowSorter {
 public:
  using R = Row<K, Weighted>;

  RowSorter(bool then_by_y, int threads) : then_by_y_(then_by_y), threads_(threads) {}

  // The rows a [n], sorted, into b [n] (to_b) or back into a.
  void sort(R* a, R* b, int64_t n, bool to_b) const { sort_by(&R::p, a, b, n, to_b, threads_); }

 private:
  using Member = K R::*;  // what a level sorts by: &R::p, or &R::y where all p are equal
  static constexpr int64_t kBlock = 1 << 16;

  // Few rows by their ranks, without a branch that depends on them; only ties are put right one by one.
  void sort_small(const R* from, R* to, int64_t n) const {
    if (n < 2) {
      if (n) {
        *to = *from;
      }
      return;
    }
    alignas(32) K keys[kSmallSize<K>], rank[kSmallSize<K>];
    R rows[kSmallSize<K>];
    for (int64_t i = 0; i < n; ++i) {
      keys[i] = from[i].p;
      rows[i] = from[i];
    }
    pad_small(keys, n);
    ORD_DISPATCH(rank_small(keys, n, rank));
    for (int64_t i = 0; i < n; ++i) {
      to[rank[i]] = rows[i];
    }
    if (then_by_y_) {
      sort_ties(to, n);
    }
  }

  // Rows sorted by p: an insertion sort by y among equal p.
  static void sort_ties(R* rows, int64_t n) {
    for (int64_t i = 1; i < n; ++i) {
      if (rows[i].p != rows[i - 1].p || rows[i].y >= rows[i - 1].y) {
        continue;
      }
      const R x = rows[i];
      int64_t j = i;
      for (; j > 0 && x.p == rows[j - 1].p && x.y < rows[j - 1].y; --j) {
        rows[j] = rows[j - 1];
      }
      rows[j] = x;
    }
  }

  static std::pair<K, K> range(Member by, const R* a, int64_t n) {
    K least = a[0].*by, greatest = least;
    for (int64_t i = 1; i < n; ++i) {
      least = std::min(least, a[i].*by);
      greatest = std::max(greatest, a[i].*by);
    }
    return {least, greatest};
  }

  bool has_more_keys(Member by) const { return then_by_y_ && by == &R::p; }

  void sort_by(Member by, R* a, R* b, int64_t n, bool to_b, int threads) const {
    if (n <= kSmallSize<K>) {
      return sort_small(a, to_b ? b : a, n);
    }
    if (n >= kSharedSize) {
      return sort_shared(by, a, b, n, to_b, threads);
    }
    const auto [least, greatest] = range(by, a, n);
    if (least == greatest) {
      if (has_more_keys(by)) {
        return sort_by(&R::y, a, b, n, to_b, threads);
      }
      if (to_b) {
        std::copy_n(a, n, b);
      }
      return;
    }
    const int bits = std::clamp<int>(std::bit_width(static_cast<uint64_t>(n)) - 5, 3, 8);
    const int shift = digit_shift(least, greatest, bits);
    uint32_t next[kDigits];  // as far as there are digits
    const int64_t digits = int64_t(1) << bits;
    std::fill_n(next, digits, 0);
    for (int64_t i = 0; i < n; ++i) {
      ++next[digit(a[i].*by, least, shift)];
    }
    for (uint32_t d = 0, sum = 0; d < digits; ++d) {
      sum += std::exchange(next[d], sum);
    }
    scatter(a, n, b, next, [&](const R& r) { return digit(r.*by, least, shift); });
    for (int64_t d = 0, begin = 0; d < digits && begin < n; begin = next[d++]) {  // next: now the ends
      if (next[d] > begin) {
        sort_by(by, b + begin, a + begin, next[d] - begin, !to_b, 1);
      }
    }
  }

  // As sort_by, with all threads: blocks of rows are counted and moved at once, then each digit's rows are sorted.
  void sort_shared(Member by, R* a, R* b, int64_t n, bool to_b, int threads) const {
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    const auto size = [&](int64_t c) { return std::min(kBlock, n - c * kBlock); };
    std::vector<std::pair<K, K>> ranges(blocks);
    parallel_for(blocks, threads, [&](int64_t c) { ranges[c] = range(by, a + c * kBlock, size(c)); });
    K least = ranges[0].first, greatest = ranges[0].second;
    for (const auto& [low, high] : ranges) {
      least = std::min(least, low);
      greatest = std::max(greatest, high);
    }
    if (least == greatest) {
      if (has_more_keys(by)) {
        return sort_shared(&R::y, a, b, n, to_b, threads);
      }
      if (to_b) {
        parallel_for(blocks, threads, [&](int64_t c) { std::copy_n(a + c * kBlock, size(c), b + c * kBlock); });
      }
      return;
    }
    const int shift = digit_shift(least, greatest);
    std::vector<int64_t> next(blocks * kDigits, 0), start(kDigits + 1);
    parallel_for(blocks, threads, [&, least, shift, by](int64_t c) {
      uint32_t count[kDigits] = {};
      for (const R *r = a + c * kBlock, *end = r + size(c); r < end; ++r) {
        ++count[digit(r->*by, least, shift)];
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
              [by, least, shift](const R& r) { return digit(r.*by, least, shift); });
    });
    sort_digits(by, b, a, start, !to_b, threads);
  }

  // The rows of each digit, from start[d] to start[d + 1] of a: long ranges one by one with all threads, then the rest.
  void sort_digits(Member by, R* a, R* b, const std::vector<int64_t>& start, bool to_b, int threads) const {
    const auto size = [&](int64_t d) { return start[d + 1] - start[d]; };
    for (int64_t d = 0; d < kDigits; ++d) {
      if (size(d) >= kSharedSize) {
        sort_by(by, a + start[d], b + start[d], size(d), to_b, threads);
      }
    }
    parallel_for(kDigits, threads, [&](int64_t d) {
      if (size(d) > 0 && size(d) < kSharedSize) {
        sort_by(by, a + start[d], b + start[d], size(d), to_b, 1);
      }
    });
  }

  const bool then_by_y_;
  const int threads_;
};

}  // namespace

template <class K, bool Weighted>
void sort_rows(Row<K, Weighted>* rows, Row<K, Weighted>* spare, int64_t n, bool then_by_y, int threads) {
  if (n) {
    RowSorter<K, Weighted>(then_by_y, threads).sort(rows, spare, n, false);
  }
}

template void sort_rows(Row<int32_t, false>*, Row<int32_t, false>*, int64_t, bool, int);
template void sort_rows(Row<int64_t, false>*, Row<int64_t, false>*, int64_t, bool, int);
template void sort_rows(Row<int64_t, true>*, Row<int64_t, true>*, int64_t, bool, int);

}  // namespace ordkernels::host
