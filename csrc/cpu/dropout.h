// Dropout of an op: its arguments, checked, as the kernels take them.
#pragma once
#include <algorithm>
#include <cmath>

#include "cpu/checks.h"
#include "cpu/ops/dropout_args.h"

// row_ids, one for each of R rows, becomes contiguous; the result points into it.
inline DropoutArgs dropout_of(const OptionalTensor& seed, OptionalTensor& row_ids, int64_t R, double p, int64_t step) {
  STD_TORCH_CHECK(p >= 0 && p < 1, "dropout: expected a probability in [0, 1), got ", p);
  if (p == 0) {
    return {};
  }
  STD_TORCH_CHECK(seed, "seed: expected one where there is dropout");
  check_dtype("seed", *seed, ScalarType::Long);
  check_shape("seed", *seed, {});
  row_ids = checked_contiguous("row_ids", row_ids, ScalarType::Long, {R});
  return {static_cast<uint64_t>(*in<int64_t>(*seed)), row_ids ? in<int64_t>(*row_ids) : nullptr,
          static_cast<uint32_t>(std::min(std::nearbyint(p * 65536), 65535.0)), static_cast<uint32_t>(step)};
}
