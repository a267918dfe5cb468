#include "host/group_rows.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "host/radix_sort.h"
#include "host/scatter.h"

namespace ordkernels::host {

namespace {

// Ids in [least, least + range], so dense that they can be counted.
void group_by_counting(const int64_t* group, int64_t n, int64_t least, uint64_t range, GroupedRows& to) {
  std::vector<int64_t> next(range + 1, 0);
  std::vector<uint32_t> bucket(n);  // a copy, within bounds whatever another thread writes to `group`
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t b = static_cast<uint64_t>(group[i]) - static_cast<uint64_t>(least);
    bucket[i] = static_cast<uint32_t>(std::min(b, range));
    ++next[bucket[i]];
  }
  int64_t sum = 0;
  for (auto& c : next) {
    if (c) {
      to.starts.push_back(sum);
    }
    sum += std::exchange(c, sum);
  }
  to.starts.push_back(n);
  scatter(n, to.order.data(), next.data(), [&](int64_t i) { return bucket[i]; }, [](int64_t i) { return i; });
}

void group_by_sorting(const int64_t* group, int64_t n, GroupedRows& to) {
  std::vector<Keyed<int64_t>> rows(n), spare;
  for (int64_t i = 0; i < n; ++i) {
    rows[i] = {group[i], i};
  }
  radix_sort(rows.data(), n, spare);
  for (int64_t i = 0; i < n; ++i) {
    to.order[i] = rows[i].row;
    if (i == 0 || rows[i].key != rows[i - 1].key) {
      to.starts.push_back(i);
    }
  }
  to.starts.push_back(n);
}

}  // namespace

GroupedRows group_rows(const int64_t* group, int64_t n) {
  GroupedRows rows;
  rows.order.resize(n);
  if (n == 0) {
    rows.starts.assign(1, 0);
    return rows;
  }
  const auto [low, high] = std::minmax_element(group, group + n);
  const int64_t least = *low;
  const uint64_t range = static_cast<uint64_t>(*high) - static_cast<uint64_t>(least);
  if (range < std::min<uint64_t>(static_cast<uint64_t>(n) + 1024, std::numeric_limits<uint32_t>::max())) {
    group_by_counting(group, n, least, range, rows);
  } else {
    group_by_sorting(group, n, rows);
  }
  return rows;
}

int64_t first_group_from(const GroupedRows& rows, int64_t row) {
  return std::lower_bound(rows.starts.begin(), rows.starts.end() - 1, row) - rows.starts.begin();
}

}  // namespace ordkernels::host
