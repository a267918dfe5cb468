// Rows of two keys, prediction and label, and their sort.
#pragma once

#include <cstdint>

namespace ordkernels::host {

// p: key of the prediction; y: key of the label; w: weight.
template <class K, bool Weighted>
struct Row {
  K p, y;
};
template <class K>
struct Row<K, true> {
  K p, y;
  double w;
};

// Sorts rows [n] by p and, then_by_y, by y among equal p; stable. `spare` has room for n rows. The result does not
// depend on the number of threads.
template <class K, bool Weighted>
void sort_rows(Row<K, Weighted>* rows, Row<K, Weighted>* spare, int64_t n, bool then_by_y, int threads);

}  // namespace ordkernels::host
