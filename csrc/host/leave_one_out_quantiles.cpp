#include "host/leave_one_out_quantiles.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "host/quantile_levels.h"
#include "host/sorted_groups.h"

namespace ordkernels::host {

namespace {

// One thread's levels, and what a group without one of its values can hold at them.
//
// A group without a value is the sorted group without rank r, so a level reads one of three values: both neighbours
// above r, both below, or one on each side. Those rows are made once for each group.
template <class F>
class LeaveOneOut {
 public:
  using K = key_of<F>;

  LeaveOneOut(std::span<const double> levels)
      : count_(static_cast<int64_t>(levels.size())),
        at_(levels.data(), count_),
        reader_(levels.data(), count_),
        rows_(3 * count_) {}

  // group [n], its sorted keys -> to [n, L]
  void run(const F* group, int64_t n, const K* keys, int64_t stride, F* to) {
    if (n == 1) {
      std::fill_n(to, count_, std::numeric_limits<F>::quiet_NaN());
      return;
    }
    F *above = rows_.data(), *across = above + count_, *below = across + count_;
    at_.set(n - 1);
    reader_.read(keys, stride, n - 1, below);           // r > hi
    reader_.read(keys + stride, stride, n - 1, above);  // r <= lo
    reader_.finish();
    for (int64_t l = 0; l < count_; ++l) {
      const double a = from_key<F>(keys[at_.lo[l] * stride]), b = from_key<F>(keys[(at_.hi[l] + 1) * stride]);
      across[l] = static_cast<F>(interpolate(a, b, at_.t[l]));
    }
    sorted_.resize(n);
    for (int64_t i = 0; i < n; ++i) {
      sorted_[i] = keys[i * stride];
    }
    for (int64_t i = 0; i < n; ++i, to += count_) {
      const int64_t r = lower_bound(sorted_.data(), n, to_key(group[i]));
      for (int64_t l = 0; l < count_; ++l) {
        to[l] = r <= at_.lo[l] ? above[l] : r <= at_.hi[l] ? across[l] : below[l];
      }
    }
  }

 private:
  const int64_t count_;
  Positions at_;
  LevelReader<F> reader_;
  std::vector<F> rows_;  // [3, L]
  std::vector<K> sorted_;
};

}  // namespace

template <class F>
void leave_one_out_quantiles(std::span<const F> values, std::span<const int64_t> offsets,
                             std::span<const double> levels, int threads, F* out) {
  const int64_t count = static_cast<int64_t>(levels.size());
  for_each_chunk(values, offsets, threads, [&](int64_t begin, int64_t end, GroupSorter<F>& sorter) {
    LeaveOneOut<F> rest(levels);
    const auto all = [](int64_t) { return [](int64_t, int64_t) { return true; }; };
    sorter.for_each_sorted(begin, end, all, [&](int64_t g, int64_t n, const key_of<F>* keys, int64_t stride) {
      rest.run(values.data() + offsets[g], n, keys, stride, out + offsets[g] * count);
    });
  });
}

template void leave_one_out_quantiles(std::span<const float>, std::span<const int64_t>, std::span<const double>, int,
                                      float*);
template void leave_one_out_quantiles(std::span<const double>, std::span<const int64_t>, std::span<const double>, int,
                                      double*);

}  // namespace ordkernels::host
