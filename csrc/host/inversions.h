// Inversions of a sequence of keys: pairs i < j with key_i > key_j, exactly, in O(n log n).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace ordkernels::host {

template <bool Weighted>
using PairSum = std::conditional_t<Weighted, double, int64_t>;

// Pairs i < j with key_i > key_j, and those with equal keys; weighted: the sums of their w_i w_j.
template <bool Weighted>
struct Inversions {
  PairSum<Weighted> above = 0, equal = 0;
  void operator+=(const Inversions& o) {
    above += o.above;
    equal += o.equal;
  }
};

// The pairs among n rows; weighted: the sum of w_i w_j, from the sums of w and w^2.
template <bool Weighted>
PairSum<Weighted> all_pairs(int64_t n, double sum, double squares) {
  if constexpr (Weighted) {
    return std::max(sum * sum - squares, 0.0) / 2;
  }
  return n % 2 ? n * ((n - 1) / 2) : n / 2 * (n - 1);
}

// Keys [n] and weights [n], null unless weighted.
template <class K, bool Weighted>
struct WeightedKeys {
  K* key;
  double* w;
  WeightedKeys at(int64_t i) const { return {key + i, Weighted ? w + i : nullptr}; }
};

// Both `keys` and `spare`, which has room for as many, are overwritten. The result does not depend on the number of
// threads.
template <class K, bool Weighted>
Inversions<Weighted> count_inversions(WeightedKeys<K, Weighted> keys, WeightedKeys<K, Weighted> spare, int64_t n,
                                      int threads);

}  // namespace ordkernels::host
