// Quantiles of ragged groups: numpy.quantile(values[offsets[g] : offsets[g + 1]], levels) for every group g.
#pragma once

#include <cstdint>
#include <span>

namespace ordkernels::host {

// values [N], offsets [G+1] from 0 to N without a step down, levels [L] in [0, 1] -> out [G, L], NaN for empty groups.
template <class F>
void segment_quantiles(std::span<const F> values, std::span<const int64_t> offsets, std::span<const double> levels,
                       int threads, F* out);

}  // namespace ordkernels::host
