// Dropout keyed by row: what the kernels get; the same type in every instruction set.
#pragma once
#include <cstdint>

struct DropoutArgs {
  uint64_t seed;
  const int64_t* row_ids;  // [R]; null: 0 .. R - 1
  uint32_t threshold;      // an element is dropped where its 16 bits are below this; 0: no dropout
  uint32_t step;           // tells the dropouts of one row apart

  double scale() const { return 65536.0 / (65536 - (int64_t)threshold); }
};
