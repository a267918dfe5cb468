// The vocabulary of values: its construction by dynamic quantiles.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ordkernels::host {

struct VocabularyFit {
  double q_start, q_end, alpha, epsilon;
};

// labels [N], from 0 to 2^53, 1 <= N < 2^32 -> values, falling. `poll` is called now and then, and may throw to end it.
std::vector<int64_t> vocabulary_fit(std::span<const int64_t> labels, const VocabularyFit& options, int threads,
                                    void (*poll)());

}  // namespace ordkernels::host
