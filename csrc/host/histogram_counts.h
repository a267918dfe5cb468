// Histograms of labels and predictions by group, as sparse tables that can be added up.
#pragma once

#include <cstdint>
#include <vector>

#include "host/grouped_histograms.h"

namespace ordkernels::host {

// One part of the groups: ids [G], rising, and counts [G, 2, M], of y and of the predictions.
struct HistogramPart {
  std::vector<int64_t> ids;
  std::vector<uint32_t> counts;
};

// parts: one after the other, they hold all groups in rising order of ids.
template <class F>
HistogramOutcome histogram_counts(const HistogramRows<F>& rows, const Bins<F>& bins, int threads,
                                  std::vector<HistogramPart>& parts);

}  // namespace ordkernels::host
