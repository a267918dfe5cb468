// Quantiles of every event's past: the events of its group at strictly earlier times.
#pragma once

#include <cstdint>
#include <span>
#include <variant>

namespace ordkernels::host {

using EventTimes = std::variant<std::span<const int64_t>, std::span<const double>>;  // [N]

// values, group, time [N], levels [L] in [0, 1] -> out [N, L], NaN where the past has fewer than min_events events or
// none.
template <class F>
void history_quantiles(std::span<const F> values, const int64_t* group, const EventTimes& time,
                       std::span<const double> levels, int64_t min_events, int threads, F* out);

}  // namespace ordkernels::host
