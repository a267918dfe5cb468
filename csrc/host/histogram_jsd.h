// The Jensen-Shannon divergence between histograms of labels and of predictions, by group.
#pragma once

#include <cstdint>

#include "host/grouped_histograms.h"

namespace ordkernels::host {

struct DivergenceSum {
  double sum = 0;  // over groups, in nats
  int64_t groups = 0;
};

template <class F>
HistogramOutcome histogram_jsd(const HistogramRows<F>& rows, const Bins<F>& bins, int threads, DivergenceSum& out);

}  // namespace ordkernels::host
