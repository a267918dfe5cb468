// Pairs of rows in order and out of it, exactly, in O(n log n).
#pragma once

#include <cstdint>

#include "host/inversions.h"
#include "host/row_radix_sort.h"

namespace ordkernels::host {

// Weighted: the sums of w_i w_j over the pairs, each to the accuracy of its terms, but for `concordant` where nearly
// all pairs are tied.
template <bool Weighted>
struct PairCount {
  PairSum<Weighted> discordant = 0;
  PairSum<Weighted> tied = 0;  // in the prediction, of different y
  PairSum<Weighted> tied_both = 0;
  PairSum<Weighted> concordant = 0;
  PairSum<Weighted> pairs = 0;  // all of different y
  void operator+=(const PairCount& o) {
    discordant += o.discordant;
    tied += o.tied;
    tied_both += o.tied_both;
    concordant += o.concordant;
    pairs += o.pairs;
  }
};

// rows [n] are overwritten; `spare` has room for as many. tied_as_given: rows of equal predictions stay in their order
// and count as discordant where their y fall (the reference's rule for ties); no weights.
template <class K, bool Weighted>
PairCount<Weighted> count_pairs(Row<K, Weighted>* rows, Row<K, Weighted>* spare, int64_t n, bool tied_as_given,
                                int threads);

}  // namespace ordkernels::host
