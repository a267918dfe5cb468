// The joint histogram of labels and predictions, for an XAUC of binned rows.
#pragma once

#include <cstdint>

#include "host/bins.h"

namespace ordkernels::host {

// y, p [N]; counts [A, B], A bins of y and B of p: += 1 at the bins of each row.
template <class F>
void joint_counts(const F* y, const F* p, int64_t n, const Bins<F>& y_bins, const Bins<F>& p_bins, int threads,
                  int64_t* counts);

}  // namespace ordkernels::host
