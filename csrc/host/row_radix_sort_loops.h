// Ranks of few keys: the loop of row_radix_sort.cpp for one instruction set (see per_isa.h).

namespace ordkernels::host::ORD_ISA {

// rank[i]: the place of a[i] after a stable sort.
template <class K>
ORD_TARGET void rank_small(const K* a, int64_t n, K* rank) {
  using V = typename KeyVector<K>::V;
  constexpr int64_t kSize = KeyVector<K>::kSize;
  const V lane = *reinterpret_cast<const V*>(kLaneIndex<K>.lane);
  for (int64_t b = 0; b < n; b += kSize) {
    const V k = *reinterpret_cast<const V*>(a + b);
    V r = V{} + static_cast<K>(b);
    for (int64_t i = 0; i < b; ++i) {
      r += (a[i] - V{}) > k;
    }
    const int64_t remaining = n - b < kSize ? n - b : kSize;
    for (int64_t i = 0; i < remaining; ++i) {
      const V x = a[b + i] - V{};
      r -= (x < k) | ((x == k) & (lane > static_cast<K>(i)));
    }
    for (int64_t i = b + kSize; i < n; ++i) {
      r -= (a[i] - V{}) < k;
    }
    *reinterpret_cast<V*>(rank + b) = r;
  }
}

}  // namespace ordkernels::host::ORD_ISA
