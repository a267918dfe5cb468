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

// What a chunk's runs of equal predictions come to.
template <bool Weighted>
struct Ties {
  PairSum<Weighted> pairs = 0;  // of different y
  double sum = 0, squares = 0;  // of all weights
};

// A run of rows [n] of equal predictions: its y and weights go to `to`.
template <class K, bool Weighted>
void add_run(const Row<K, Weighted>* rows, int64_t n, bool y_sorted, WeightedKeys<K, Weighted> to,
             Ties<Weighted>& ties) {
  if (!Weighted && n == 1) {
    to.key[0] = rows[0].y;
    return;
  }
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < n; ++r) {
    to.key[r] = rows[r].y;
    if constexpr (Weighted) {
      to.w[r] = rows[r].w;
      sum += to.w[r];
      squares += to.w[r] * to.w[r];
    }
  }
  const K* y = to.key;
  std::vector<K> sorted;
  if (!y_sorted) {
    sorted.assign(y, y + n);
    std::sort(sorted.begin(), sorted.end());
    y = sorted.data();
  }
  PairSum<Weighted> equal = 0;
  for (int64_t r = 0, end; r < n; r = end) {
    double part = 0, part_squares = 0;
    for (end = r; end < n && y[end] == y[r]; ++end) {
      if constexpr (Weighted) {
        part += to.w[end];
        part_squares += to.w[end] * to.w[end];
      }
    }
    equal += all_pairs<Weighted>(end - r, part, part_squares);
  }
  ties.pairs += all_pairs<Weighted>(n, sum, squares) - equal;
  ties.sum += sum;
  ties.squares += squares;
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
  Ties<Weighted> total;  // of the first chunk, the only one of a small group
  std::vector<Ties<Weighted>> later(run_chunks(n) - 1);
  for_each_run(
      n, threads, [&](int64_t i, int64_t j) { return rows[i].p == rows[j].p; },
      [&](int64_t i, int64_t j, int64_t c) {
        add_run(rows + i, j - i, !tied_as_given, keys.at(i), c ? later[c - 1] : total);
      });
  for (const auto& ties : later) {
    total.pairs += ties.pairs;
    total.sum += ties.sum;
    total.squares += ties.squares;
  }
  const auto inversions = count_inversions(keys, keys_in(rows, n), n, threads);
  return {inversions.above, total.pairs, all_pairs<Weighted>(n, total.sum, total.squares) - inversions.equal};
}

template PairCount<false> count_pairs(Row<int32_t, false>*, Row<int32_t, false>*, int64_t, bool, int);
template PairCount<false> count_pairs(Row<int64_t, false>*, Row<int64_t, false>*, int64_t, bool, int);
template PairCount<true> count_pairs(Row<int64_t, true>*, Row<int64_t, true>*, int64_t, bool, int);

}  // namespace ordkernels::host
