// Columns of numbers of four types, and their keys.
#pragma once

#include <cstdint>

#include "host/row_radix_sort.h"

namespace ordkernels::host {

enum class ColumnType { kFloat32, kInt32, kFloat64, kInt64 };

// An array [N].
struct Column {
  const void* data;
  ColumnType type;

  bool is_64_bit() const { return type == ColumnType::kFloat64 || type == ColumnType::kInt64; }
  Column from(int64_t i) const { return {static_cast<const char*>(data) + i * (is_64_bit() ? 8 : 4), type}; }
};

// rows[i] = (p, y, w) of row order[i], of row i where `order` is null; w is null unless weighted. Keys of 32 bits serve
// two columns of 32 bits. reversed: the order of the predictions is reversed.
template <class K, bool Weighted>
void load_rows(const Column& y, const Column& p, const double* w, const int64_t* order, int64_t n, bool reversed,
               Row<K, Weighted>* rows);

// All rows [n] in their order.
template <class K, bool Weighted>
void load_all_rows(const Column& y, const Column& p, const double* w, int64_t n, bool reversed, int threads,
                   Row<K, Weighted>* rows);

}  // namespace ordkernels::host
