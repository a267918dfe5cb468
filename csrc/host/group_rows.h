// Rows brought together by group.
#pragma once

#include <cstdint>
#include <vector>

namespace ordkernels::host {

struct GroupedRows {
  std::vector<int64_t> order;   // [N]: the rows, group after group in rising order of their ids, each in its own order
  std::vector<int64_t> starts;  // [G+1]: where each group begins in `order`

  int64_t groups() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t size(int64_t g) const { return starts[g + 1] - starts[g]; }
};

// group [N]: ids. They are read once, so no other thread's writes to them matter.
GroupedRows group_rows(const int64_t* group, int64_t n);

// The first group that begins at or after row `row` of the order: where to cut the groups into chunks of rows.
int64_t first_group_from(const GroupedRows& rows, int64_t row);

}  // namespace ordkernels::host
