// Inversions of a sequence of keys: pairs i < j with key_i > key_j, exactly, in O(n log n).
//
// With weights a pair counts w_i w_j. Nothing is ever subtracted: each sum of products is as accurate as its terms, and
// 0 where there is no pair.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ordkernels::host {

template <bool Weighted>
using PairSum = std::conditional_t<Weighted, double, int64_t>;

// Pairs i < j with key_i > key_j, and those with equal keys.
template <bool Weighted>
struct Inversions {
  int64_t above = 0, equal = 0;
  void operator+=(const Inversions& o) {
    above += o.above;
    equal += o.equal;
  }
};

// The sums of w_i w_j over the pairs with key_i > key_j, and over those with key_i < key_j.
template <>
struct Inversions<true> {
  double above = 0, below = 0;
  void operator+=(const Inversions& o) {
    above += o.above;
    below += o.below;
  }
};

constexpr int64_t all_pairs(int64_t n) { return n % 2 ? n * ((n - 1) / 2) : n / 2 * (n - 1); }

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
