#include "host/columns.h"

#include <algorithm>

#include "host/float_keys.h"
#include "host/parallel.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kChunkRows = 1 << 16;  // per unit of work

// Calls f with the column's data as what they are.
template <class F>
void visit(const Column& column, const F& f) {
  switch (column.type) {
    case ColumnType::kFloat32: return f(static_cast<const float*>(column.data));
    case ColumnType::kInt32: return f(static_cast<const int32_t*>(column.data));
    case ColumnType::kFloat64: return f(static_cast<const double*>(column.data));
    case ColumnType::kInt64: return f(static_cast<const int64_t*>(column.data));
  }
}

// rows[i].*to = the key of row order[i] ^ mask.
template <class K, class R>
void load_keys(const Column& column, const int64_t* order, int64_t n, K mask, K R::* to, R* rows) {
  visit(column, [&](const auto* from) {
    if (order) {
      for (int64_t i = 0; i < n; ++i) {
        rows[i].*to = static_cast<K>(order_key(from[order[i]])) ^ mask;
      }
    } else {
      for (int64_t i = 0; i < n; ++i) {
        rows[i].*to = static_cast<K>(order_key(from[i])) ^ mask;
      }
    }
  });
}

}  // namespace

template <class K, bool Weighted>
void load_rows(const Column& y, const Column& p, const double* w, const int64_t* order, int64_t n, bool reversed,
               Row<K, Weighted>* rows) {
  using R = Row<K, Weighted>;
  load_keys(y, order, n, K(0), &R::y, rows);
  load_keys(p, order, n, static_cast<K>(reversed ? -1 : 0), &R::p, rows);
  if constexpr (Weighted) {
    for (int64_t i = 0; i < n; ++i) {
      rows[i].w = w[order ? order[i] : i];
    }
  }
}

template <class K, bool Weighted>
void load_all_rows(const Column& y, const Column& p, const double* w, int64_t n, bool reversed, int threads,
                   Row<K, Weighted>* rows) {
  parallel_for((n + kChunkRows - 1) / kChunkRows, threads, [&](int64_t c) {
    const int64_t i = c * kChunkRows;
    load_rows(y.from(i), p.from(i), w ? w + i : nullptr, nullptr, std::min(kChunkRows, n - i), reversed, rows + i);
  });
}

#define INSTANTIATE(K, Weighted)                                                                      \
  template void load_rows(const Column&, const Column&, const double*, const int64_t*, int64_t, bool, \
                          Row<K, Weighted>*);                                                         \
  template void load_all_rows(const Column&, const Column&, const double*, int64_t, bool, int, Row<K, Weighted>*);
INSTANTIATE(int32_t, false)
INSTANTIATE(int64_t, false)
INSTANTIATE(int64_t, true)
#undef INSTANTIATE

}  // namespace ordkernels::host
