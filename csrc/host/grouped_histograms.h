// Histograms of labels and predictions by group, group by group, without a table of all of them.
#pragma once

#include <cstdint>

#include "host/bins.h"

namespace ordkernels::host {

// The ids of a few groups, rising.
struct GroupIds {
  const int64_t* names;  // null: `first` counts the ids themselves
  int64_t first;
  int64_t operator[](int64_t g) const { return names ? names[first + g] : first + g; }
};

// What is done with the histograms, from several threads at once. Groups come in parts, a part's ids rising and all of
// them below the next part's; parts come in any order. Ids between the groups' may come too, all of whose counts are 0.
class HistogramVisitor {
 public:
  virtual ~HistogramVisitor() = default;
  virtual void set_parts(int64_t parts) = 0;  // before the first visit
  // counts [groups, 2, M]: of y and of the predictions
  virtual void visit(int64_t part, GroupIds ids, int64_t groups, const uint16_t* counts) = 0;
  virtual void visit(int64_t part, GroupIds ids, int64_t groups, const uint32_t* counts) = 0;
};

// Rows to count. y, p, group [N], N < 2^32.
template <class F>
struct HistogramRows {
  const F *y, *p;
  const int64_t* group;
  int64_t n;
};

enum class HistogramOutcome { kDone, kHasNaN, kTooManyGroups, kTooManyBins };

// Unless the outcome is kDone, nothing was visited.
template <class F>
HistogramOutcome for_each_histogram(const HistogramRows<F>& rows, const Bins<F>& bins, int threads,
                                    HistogramVisitor& visitor);

}  // namespace ordkernels::host
