#include "host/histogram_jsd.h"

#include <cmath>
#include <vector>

namespace ordkernels::host {

namespace {

double divergence_term(double a, double b) {
  const double sum = a + b;
  return (a > 0 ? a * std::log(2 * a / sum) : 0) + (b > 0 ? b * std::log(2 * b / sum) : 0);
}

class Divergences final : public HistogramVisitor {
 public:
  explicit Divergences(int64_t M) : M_(M), table_(kSmall * kSmall) {
    for (uint32_t a = 0; a < kSmall; ++a) {
      for (uint32_t b = 0; b < kSmall; ++b) {
        table_[a * kSmall + b] = divergence_term(a, b);
      }
    }
  }

  void set_parts(int64_t parts) override { parts_.resize(parts); }
  void visit(int64_t part, GroupIds, int64_t groups, const uint16_t* counts) override { add(part, groups, counts); }
  void visit(int64_t part, GroupIds, int64_t groups, const uint32_t* counts) override { add(part, groups, counts); }

  DivergenceSum total() const {
    DivergenceSum all;
    for (const auto& part : parts_) {
      all.sum += part.sum;
      all.groups += part.groups;
    }
    return all;
  }

 private:
  static constexpr uint32_t kSmall = 32;  // counts below it have their terms in a table

  // counts [groups, 2, M]
  template <class Count>
  void add(int64_t part, int64_t groups, const Count* counts) {
    const int64_t M = M_;
    const double* table = table_.data();
    DivergenceSum total;
    for (const Count* count = counts; count < counts + groups * 2 * M; count += 2 * M) {
      double even = 0, odd = 0;  // two chains of additions
      int64_t rows = 0;
      const auto of_bin = [&](int64_t m) {
        const uint32_t a = count[m], b = count[M + m];
        rows += a;
        return (a | b) < kSmall ? table[a * kSmall + b] : a == b ? 0 : divergence_term(a, b);
      };
      int64_t m = 0;
      for (; m + 2 <= M; m += 2) {
        even += of_bin(m);
        odd += of_bin(m + 1);
      }
      if (m < M) {
        even += of_bin(m);
      }
      if (rows) {
        total.sum += (even + odd) / (2 * static_cast<double>(rows));
        ++total.groups;
      }
    }
    parts_[part] = total;
  }

  const int64_t M_;
  std::vector<double> table_;
  std::vector<DivergenceSum> parts_;
};

}  // namespace

template <class F>
HistogramOutcome histogram_jsd(const HistogramRows<F>& rows, const Bins<F>& bins, int threads, DivergenceSum& out) {
  Divergences divergences(bins.size());
  const HistogramOutcome outcome = for_each_histogram(rows, bins, threads, divergences);
  out = divergences.total();
  return outcome;
}

template HistogramOutcome histogram_jsd(const HistogramRows<float>&, const Bins<float>&, int, DivergenceSum&);
template HistogramOutcome histogram_jsd(const HistogramRows<double>&, const Bins<double>&, int, DivergenceSum&);

}  // namespace ordkernels::host
