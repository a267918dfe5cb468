#include "host/histogram_counts.h"

namespace ordkernels::host {

namespace {

class Collector final : public HistogramVisitor {
 public:
  Collector(int64_t M, std::vector<HistogramPart>& parts) : M_(M), parts_(parts) {}

  void set_parts(int64_t parts) override { parts_.resize(parts); }
  void visit(int64_t part, GroupIds ids, int64_t groups, const uint16_t* counts) override {
    add(part, ids, groups, counts);
  }
  void visit(int64_t part, GroupIds ids, int64_t groups, const uint32_t* counts) override {
    add(part, ids, groups, counts);
  }

 private:
  template <class Count>
  void add(int64_t part, GroupIds ids, int64_t groups, const Count* counts) {
    HistogramPart& to = parts_[part];
    for (int64_t g = 0; g < groups; ++g) {
      const Count* count = counts + g * 2 * M_;
      uint32_t any = 0;
      for (int64_t m = 0; m < M_; ++m) {
        any |= count[m];
      }
      if (any) {
        to.ids.push_back(ids[g]);
        to.counts.insert(to.counts.end(), count, count + 2 * M_);
      }
    }
  }

  const int64_t M_;
  std::vector<HistogramPart>& parts_;
};

}  // namespace

template <class F>
HistogramOutcome histogram_counts(const HistogramRows<F>& rows, const Bins<F>& bins, int threads,
                                  std::vector<HistogramPart>& parts) {
  Collector collector(bins.size(), parts);
  return for_each_histogram(rows, bins, threads, collector);
}

template HistogramOutcome histogram_counts(const HistogramRows<float>&, const Bins<float>&, int,
                                           std::vector<HistogramPart>&);
template HistogramOutcome histogram_counts(const HistogramRows<double>&, const Bins<double>&, int,
                                           std::vector<HistogramPart>&);

}  // namespace ordkernels::host
