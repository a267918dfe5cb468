#include "host/quantile_levels.h"

#include <algorithm>
#include <numeric>

#include "common/isa.h"

#define ORD_LOOPS "host/quantile_level_loops.h"
#include "host/per_isa.h"

namespace ordkernels::host {

Positions::Positions(const double* levels, int64_t count)
    : count(count), ascending(count), lo(padded(count)), hi(padded(count)), t(padded(count)), levels_(padded(count)) {
  std::copy_n(levels, count, levels_.begin());
  std::iota(ascending.begin(), ascending.end(), int64_t(0));
  std::sort(ascending.begin(), ascending.end(), [&](int64_t a, int64_t b) { return levels_[a] < levels_[b]; });
}

void Positions::compute(int64_t n) {
  n_ = n;
  ORD_DISPATCH(set_positions(n, levels_.data(), padded(count), lo.data(), hi.data(), t.data()));
}

template <class F>
LevelReader<F>::LevelReader(const double* levels, int64_t count)
    : count_(count),
      padded_(Positions::padded(count)),
      at_(kSlots, Positions(levels, count)),
      below_(kSlots * padded_),
      above_(kSlots * padded_) {}

template <class F>
void LevelReader<F>::finish() {
  for (int i = 0; i < used_; ++i) {
    const K *const below = below_.data() + i * padded_, *const above = above_.data() + i * padded_;
    const double* const t = at_[i].t.data();
    if (ORD_DISPATCH(interpolate_levels(below, above, t, count_, out_[i]))) {
      continue;
    }
    for (int64_t l = 0; l < count_; ++l) {  // a gap that is not finite
      out_[i][l] = static_cast<F>(interpolate(from_key<F>(below[l]), from_key<F>(above[l]), t[l]));
    }
  }
  used_ = 0;
}

template class LevelReader<float>;
template class LevelReader<double>;

}  // namespace ordkernels::host
