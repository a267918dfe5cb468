// Labels as whole numbers of a unit.
#pragma once

#include <cstdint>
#include <span>

namespace ordkernels::host {

constexpr int64_t kMaxLabel = int64_t(1) << 53;  // all whole numbers up to it are doubles

// labels [N] times `scale`, to the nearest whole number -> out [N]; `slack` is how far from whole a product may be.
// Returns the index of the first label that is further from whole, or not in [0, kMaxLabel]; -1 if there is none.
template <class F>
int64_t to_units(std::span<const F> labels, double scale, double slack, int threads, int64_t* out);

}  // namespace ordkernels::host
