#include "host/xauc.h"

#include <algorithm>
#include <vector>

#include "host/buffer.h"
#include "host/group_rows.h"
#include "host/parallel.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kChunkRows = 64 * 1024;  // per unit of work where groups are short

// load(rows, reversed) loads n rows, with the order of the predictions reversed or not.
//
// Weighted concordant pairs are what tied ones leave of a sum. Where that is little, the rounding of the sum could
// count as pairs: they are counted on their own, as the discordant pairs of the reversed predictions.
template <class K, bool Weighted, class Load>
PairCount<Weighted> count_loaded(Row<K, Weighted>* rows, Row<K, Weighted>* spare, int64_t n, int threads,
                                 const Load& load) {
  load(rows, false);
  PairCount<Weighted> count = count_pairs(rows, spare, n, false, threads);
  if constexpr (Weighted) {
    if (count.tied > 0 && count.concordant < count.tied / 16) {
      load(rows, true);
      count.concordant = count_pairs(rows, spare, n, false, threads).discordant;
    }
  }
  return count;
}

template <class K, bool Weighted>
PairCount<Weighted> count_all(const Column& y, const Column& p, const double* w, int64_t n, bool reference,
                              int threads) {
  Buffer<Row<K, Weighted>> rows(n), spare(n);
  const auto load = [&](auto* to, bool reversed) { load_all_rows(y, p, w, n, reversed, threads, to); };
  if (reference) {
    load(rows.data(), true);
    PairCount<Weighted> count = count_pairs(rows.data(), spare.data(), n, true, threads);
    count.concordant = count.discordant;
    return count;
  }
  return count_loaded<K, Weighted>(rows.data(), spare.data(), n, threads, load);
}

template <class K, bool Weighted>
GroupedPairCount<Weighted> count_groups(const Column& y, const Column& p, const double* w, const int64_t* group,
                                        int64_t n, int threads) {
  const GroupedRows grouped = group_rows(group, n);
  const int64_t chunks = n / kChunkRows + 1;
  const auto first = [&](int64_t c) {
    return c == chunks ? grouped.groups() : first_group_from(grouped, c * kChunkRows);
  };
  std::vector<GroupedPairCount<Weighted>> each(chunks);
  parallel_for(chunks, threads, [&](int64_t c) {
    const int64_t begin = first(c), end = first(c + 1);
    int64_t longest = 0;
    for (int64_t g = begin; g < end; ++g) {
      longest = std::max(longest, grouped.size(g));
    }
    Buffer<Row<K, Weighted>> rows(longest), spare(longest);
    GroupedPairCount<Weighted>& sum = each[c];
    for (int64_t g = begin; g < end; ++g) {
      const auto load = [&](auto* to, bool reversed) {
        load_rows(y, p, w, grouped.order.data() + grouped.starts[g], grouped.size(g), reversed, to);
      };
      const auto found = count_loaded<K, Weighted>(rows.data(), spare.data(), grouped.size(g), 1, load);
      sum.pairs += found;
      if (!(found.pairs > 0)) {
        continue;
      }
      const auto pairs = static_cast<double>(found.pairs);
      ++sum.groups;
      sum.concordant += static_cast<double>(found.concordant) / pairs;
      sum.tied += static_cast<double>(found.tied) / pairs;
    }
  });
  GroupedPairCount<Weighted> total;
  for (const auto& count : each) {
    total += count;
  }
  return total;
}

bool are_64_bit(const Column& y, const Column& p) { return y.is_64_bit() || p.is_64_bit(); }

}  // namespace

AnyPairCount xauc_counts(const Column& y, const Column& p, const double* w, int64_t n, int threads) {
  if (w) {
    return count_all<int64_t, true>(y, p, w, n, false, threads);
  }
  return are_64_bit(y, p) ? count_all<int64_t, false>(y, p, nullptr, n, false, threads)
                          : count_all<int32_t, false>(y, p, nullptr, n, false, threads);
}

PairCount<false> xauc_reference_counts(const Column& y, const Column& p, int64_t n, int threads) {
  return are_64_bit(y, p) ? count_all<int64_t, false>(y, p, nullptr, n, true, threads)
                          : count_all<int32_t, false>(y, p, nullptr, n, true, threads);
}

AnyGroupedPairCount xauc_groups(const Column& y, const Column& p, const double* w, const int64_t* group, int64_t n,
                                int threads) {
  if (w) {
    return count_groups<int64_t, true>(y, p, w, group, n, threads);
  }
  return are_64_bit(y, p) ? count_groups<int64_t, false>(y, p, nullptr, group, n, threads)
                          : count_groups<int32_t, false>(y, p, nullptr, group, n, threads);
}

}  // namespace ordkernels::host
