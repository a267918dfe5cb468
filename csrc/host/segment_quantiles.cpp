#include "host/segment_quantiles.h"

#include <algorithm>
#include <limits>

#include "host/quantile_levels.h"
#include "host/sorted_groups.h"

namespace ordkernels::host {

template <class F>
void segment_quantiles(std::span<const F> values, std::span<const int64_t> offsets, std::span<const double> levels,
                       int threads, F* out) {
  const int64_t count = static_cast<int64_t>(levels.size());
  for_each_chunk(values, offsets, threads, [&](int64_t begin, int64_t end, GroupSorter<F>& sorter) {
    Positions at(levels.data(), count);
    const F* const last = out + end * count;  // groups are visited in order of size, so their rows lie anywhere
    for (const F* to = out + begin * count; to < last; to += 64 / sizeof(F)) {
      __builtin_prefetch(to, 1, 2);
    }
    for (int64_t g = begin; g < end; ++g) {
      if (offsets[g] == offsets[g + 1]) {
        std::fill_n(out + g * count, count, std::numeric_limits<F>::quiet_NaN());
      }
    }
    const auto wanted = [&](int64_t n) {
      at.set(n);
      return [&at, l = int64_t(0)](int64_t from, int64_t to) mutable {
        while (l < at.count && at.hi[at.ascending[l]] < from) {
          ++l;
        }
        return l < at.count && at.lo[at.ascending[l]] < to;
      };
    };
    LevelReader<F> reader(levels.data(), count);
    sorter.for_each_sorted(begin, end, wanted, [&](int64_t g, int64_t n, const key_of<F>* keys, int64_t stride) {
      reader.read(keys, stride, n, out + g * count);
    });
    reader.finish();
  });
}

template void segment_quantiles(std::span<const float>, std::span<const int64_t>, std::span<const double>, int, float*);
template void segment_quantiles(std::span<const double>, std::span<const int64_t>, std::span<const double>, int,
                                double*);

}  // namespace ordkernels::host
