// Quantiles, for each value of ragged groups, of its group without it.
#pragma once

#include <cstdint>
#include <span>

namespace ordkernels::host {

// values [N], offsets [G+1] from 0 to N without a step down, levels [L] in [0, 1] -> out [N, L], NaN in groups of one.
template <class F>
void leave_one_out_quantiles(std::span<const F> values, std::span<const int64_t> offsets,
                             std::span<const double> levels, int threads, F* out);

}  // namespace ordkernels::host
