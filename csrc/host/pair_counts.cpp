// Rows are sorted by (prediction, y); then the discordant pairs are the inversions of y.
#include "host/pair_counts.h"

#include <algorithm>
#include <vector>

#include "host/runs.h"

namespace ordkernels::host {

namespace {

// Room for keys [n], then weights [n], in place of rows [n]: together no longer, and aligned, whatever n is.
template <class K, bool Weighted>
WeightedKeys<K, Weighted> keys_in(Row<K, Weighted>* rows, int64_t n) {
  if constexpr (Weighted) {
    return {reinterpret_cast<K*>(rows),
            reinterpret_cast<double*>(reinterpret_cast<char*>(rows) + (n * sizeof(K) + 7) / 8 * 8)};
  } else {
    return {reinterpret_cast<K*>(rows), nullptr};
  }
}

// Pairs of equal predictions: of different y, and of equal ones.
template <bool Weighted>
struct TiedPairs {
  PairSum<Weighted> different = 0, equal = 0;
  void operator+=(const TiedPairs& o) {
    different += o.different;
    equal += o.equal;
  }
};

// A run of rows [n] of equal predictions: its y and weights go to `to`.
template <class K>
TiedPairs<false> tied_pairs(const Row<K, false>* rows, int64_t n, bool y_sorted, WeightedKeys<K, false> to) {
  for (int64_t r = 0; r < n; ++r) {
    to.key[r] = rows[r].y;
  }
  if (n == 1) {
    return {};
  }
  const K* y = to.key;
  std::vector<K> sorted;
  if (!y_sorted) {
    sorted.assign(y, y + n);
    std::sort(sorted.begin(), sorted.end());
    y = sorted.data();
  }
  int64_t equal = 0;
  for (int64_t r = 0, end; r < n; r = end) {
    for (end = r; end < n && y[end] == y[r]; ++end) {
    }
    equal += all_pairs(end - r);
  }
  return {all_pairs(n) - equal, equal};
}

// The same, weighted: each y's weight times that of all lower ones, each row's times that of those before it.
template <class K>
TiedPairs<true> tied_pairs(const Row<K, true>* rows, int64_t n, bool /*y_sorted*/, WeightedKeys<K, true> to) {
  TiedPairs<true> total;
  double lower = 0;
  for (int64_t r = 0, end; r < n; r = end) {
    double here = 0;
    for (end = r; end < n && rows[end].y == rows[r].y; ++end) {
      to.key[end] = rows[end].y;
      to.w[end] = rows[end].w;
      total.equal += here * rows[end].w;
      here += rows[end].w;
    }
    total.different += here * lower;
    lower += here;
  }
  return total;
}

}  // namespace

template <class K, bool Weighted>
PairCount<Weighted> count_pairs(Row<K, Weighted>* rows, Row<K, Weighted>* spare, int64_t n, bool tied_as_given,
                                int threads) {
  if (n == 0) {
    return {};
  }
  sort_rows(rows, spare, n, !tied_as_given, threads);
  const auto keys = keys_in(spare, n);
  TiedPairs<Weighted> tied;  // in the first chunk, the only one of a small group
  std::vector<TiedPairs<Weighted>> later(run_chunks(n) - 1);
  for_each_run(
      n, threads, [&](int64_t i, int64_t j) { return rows[i].p == rows[j].p; },
      [&](int64_t i, int64_t j, int64_t c) {
        (c ? later[c - 1] : tied) += tied_pairs(rows + i, j - i, !tied_as_given, keys.at(i));
      });
  for (const auto& pairs : later) {
    tied += pairs;
  }
  const auto inversions = count_inversions(keys, keys_in(rows, n), n, threads);
  if constexpr (Weighted) {  // rows of equal predictions lie in rising order of y: they are among the pairs below
    return {inversions.above, tied.different, tied.equal, std::max(inversions.below - tied.different, 0.0),
            inversions.above + inversions.below};
  } else {
    const int64_t pairs = all_pairs(n) - inversions.equal;
    return {inversions.above, tied.different, tied.equal, pairs - tied.different - inversions.above, pairs};
  }
}

template PairCount<false> count_pairs(Row<int32_t, false>*, Row<int32_t, false>*, int64_t, bool, int);
template PairCount<false> count_pairs(Row<int64_t, false>*, Row<int64_t, false>*, int64_t, bool, int);
template PairCount<true> count_pairs(Row<int64_t, true>*, Row<int64_t, true>*, int64_t, bool, int);

}  // namespace ordkernels::host
