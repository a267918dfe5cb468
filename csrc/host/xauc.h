// XAUC: the counts of concordant, discordant and tied pairs of rows that it is made of, of all rows or within groups.
#pragma once

#include <cstdint>
#include <variant>

#include "host/columns.h"
#include "host/pair_counts.h"

namespace ordkernels::host {

// y, p [N]; w [N]: weights, or null. Exact counts without weights, sums of w_i w_j with them.
using AnyPairCount = std::variant<PairCount<false>, PairCount<true>>;
AnyPairCount xauc_counts(const Column& y, const Column& p, const double* w, int64_t n, int threads);

// The same by the reference's rule for ties: y against predictions in falling order, of which rows of equal predictions
// keep their order. The result's `concordant` are the pairs whose earlier y is greater.
PairCount<false> xauc_reference_counts(const Column& y, const Column& p, int64_t n, int threads);

// The pairs within all groups; over the groups that have a pair, how many they are and the sums of their shares.
template <bool Weighted>
struct GroupedPairCount {
  PairCount<Weighted> pairs;
  int64_t groups = 0;
  double concordant = 0, tied = 0;
  void operator+=(const GroupedPairCount& o) {
    pairs += o.pairs;
    groups += o.groups;
    concordant += o.concordant;
    tied += o.tied;
  }
};
using AnyGroupedPairCount = std::variant<GroupedPairCount<false>, GroupedPairCount<true>>;
AnyGroupedPairCount xauc_groups(const Column& y, const Column& p, const double* w, const int64_t* group, int64_t n,
                                int threads);

}  // namespace ordkernels::host
