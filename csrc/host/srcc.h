// Spearman's rank correlation.
#pragma once

#include <cstdint>

#include "host/columns.h"

namespace ordkernels::host {

// y, p [N] -> Pearson's correlation of their mean ranks; NaN where one of them is constant.
double srcc(const Column& y, const Column& p, int64_t n, int threads);

}  // namespace ordkernels::host
