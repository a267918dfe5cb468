#include "host/label_units.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "host/parallel.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kChunkLabels = 1 << 14;  // per unit of work

}  // namespace

template <class F>
int64_t to_units(std::span<const F> labels, double scale, double slack, int threads, int64_t* out) {
  const int64_t n = static_cast<int64_t>(labels.size());
  std::atomic<int64_t> first_bad{n};
  parallel_for((n + kChunkLabels - 1) / kChunkLabels, threads, [&](int64_t c) {
    for (int64_t i = c * kChunkLabels, end = std::min(n, (c + 1) * kChunkLabels); i < end; ++i) {
      const double x = static_cast<double>(labels[i]) * scale;
      const bool in_range = x >= 0 && x <= static_cast<double>(kMaxLabel);
      const double whole = in_range ? std::nearbyint(x) : 0;
      out[i] = static_cast<int64_t>(whole);
      if (in_range && std::fabs(x - whole) <= slack) {
        continue;
      }
      int64_t seen = first_bad;
      while (i < seen && !first_bad.compare_exchange_weak(seen, i)) {
      }
    }
  });
  return first_bad == n ? -1 : first_bad.load();
}

template int64_t to_units(std::span<const float>, double, double, int, int64_t*);
template int64_t to_units(std::span<const double>, double, double, int, int64_t*);

}  // namespace ordkernels::host
