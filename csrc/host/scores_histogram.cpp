// Histograms of labels and predictions: by group, for the Jensen-Shannon divergence, and jointly, for a binned XAUC.
//
// Rows go to parts of the groups first, so that the counts of a part stay in the second cache; a row takes its bins along.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "host/buffer.h"
#include "host/checks.h"
#include "host/parallel.h"
#include "host/quantiles_history.h"

namespace ordkernels::host {

namespace {

namespace py = pybind11;

template <class F>
using array = py::array_t<F, py::array::c_style>;

constexpr int64_t kRows = 1 << 15;           // rows per unit of work
constexpr int64_t kTable = 96 * 1024;        // counts in a part's table: 384 KiB
constexpr int64_t kParts = 1024;

// The bin of a number: how many inner edges are at most it. A grid over the edges' range says which few edges to compare.
class Bins {
 public:
  Bins(const double* edges, int64_t count) : inner_(edges + 1, edges + count - 1), first_(kCells + 1, 0) {
    const int64_t m = static_cast<int64_t>(inner_.size());
    if (m > 1) {
      low_ = inner_.front();
      scale_ = kCells / (inner_.back() - low_);
      if (!(scale_ > 0 && scale_ <= std::numeric_limits<double>::max() && std::fabs(low_) <= std::numeric_limits<double>::max())) {
        low_ = scale_ = 0;
      }
    }
    for (double e : inner_) ++first_[cell(e) + 1];
    for (int64_t c = 0; c < kCells; ++c) first_[c + 1] += first_[c];  // edges in earlier cells
  }
  template <class F>
  uint32_t operator()(F x_) const {
    const double x = x_;
    const int64_t c = cell(x);
    uint32_t low = first_[c], high = first_[c + 1];
    while (high - low > 2) {  // a cell with many edges
      const uint32_t middle = (low + high) / 2;
      if (inner_[middle] <= x) low = middle + 1;
      else high = middle;
    }
    uint32_t bin = low;
    for (uint32_t e = low; e < high; ++e) bin += inner_[e] <= x;
    return bin;
  }

 private:
  static constexpr int64_t kCells = 2048;
  int64_t cell(double x) const {  // never falls as x rises, which is all that is asked of it
    double t = (x - low_) * scale_;
    t = t > 0 ? t : 0;
    return static_cast<int64_t>(t < kCells - 1 ? t : kCells - 1);
  }
  std::vector<double> inner_;
  std::vector<uint32_t> first_;
  double low_ = 0, scale_ = 0;
};

// Groups as slots 0, 1, ...: by their ids' distance from the least, or, where that would leave most slots empty, by rank.
struct Slots {
  const int64_t* group;
  int64_t least = 0, count = 0;
  std::vector<int64_t> slot, ids;  // by rank: of each row; of each slot
  Slots(const int64_t* g, int64_t n) : group(g) {
    if (!n) return;
    int64_t high = least = g[0];
    for (int64_t i = 1; i < n; ++i) least = std::min(least, g[i]), high = std::max(high, g[i]);
    const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(least);
    if (range < 4 * static_cast<uint64_t>(n) + 1024) {
      count = static_cast<int64_t>(range) + 1;
      return;
    }
    std::vector<int64_t> order, starts;
    group_events(g, n, order, starts);
    count = static_cast<int64_t>(starts.size()) - 1;
    slot.resize(n);
    ids.resize(count);
    for (int64_t s = 0; s < count; ++s) {
      ids[s] = g[order[starts[s]]];
      for (int64_t i = starts[s]; i < starts[s + 1]; ++i) slot[order[i]] = s;
    }
  }
  int64_t of(int64_t row) const { return slot.empty() ? group[row] - least : slot[row]; }
  int64_t id(int64_t s) const { return ids.empty() ? s + least : ids[s]; }
};

// A row on its way: its slot within the part and its two bins, in as few bits as hold them.
template <class Word>
struct Packed {
  int bits;  // of a bin
  Word pack(uint64_t slot, uint64_t y, uint64_t p) const { return static_cast<Word>(((slot << bits | y) << bits) | p); }
  uint64_t y(Word w) const { return (w >> bits) & ((Word(1) << bits) - 1); }
  uint64_t p(Word w) const { return w & ((Word(1) << bits) - 1); }
  uint64_t slot(Word w) const { return w >> bits >> bits; }
};

template <class Word, class F, class Body>
void fill_parts(const F* y, const F* p, const Slots& slots, int64_t n, const Bins& bins, int64_t M, int shift, int bits,
                int64_t parts, int threads, const Body& body) {
  const int64_t chunks = (n + kRows - 1) / kRows, each = int64_t(1) << shift;
  const Packed<Word> packed{bits};
  std::vector<int64_t> next(chunks * parts, 0), start(parts + 1);
  auto rows = [&](int64_t c, const auto& f) {
    for (int64_t i = c * kRows; i < std::min(n, (c + 1) * kRows); ++i) f(i);
  };
  parallel_for(chunks, threads, [&](int64_t c) {
    int64_t* mine = next.data() + c * parts;
    rows(c, [&](int64_t i) { ++mine[slots.of(i) >> shift]; });
  });
  int64_t sum = 0;
  for (int64_t q = 0; q < parts; ++q) {
    start[q] = sum;
    for (int64_t c = 0; c < chunks; ++c) sum += std::exchange(next[c * parts + q], sum);
  }
  start[parts] = n;
  Buffer<Word> words(n);
  Word* to = words.data();
  parallel_for(chunks, threads, [&](int64_t c) {
    int64_t* mine = next.data() + c * parts;
    rows(c, [&](int64_t i) {
      const int64_t s = slots.of(i);
      to[mine[s >> shift]++] = packed.pack(s & (each - 1), bins(y[i]), bins(p[i]));
    });
  });
  parallel_for(parts, threads, [&](int64_t q) {
    const int64_t first = q << shift, count = std::min(each, slots.count - first);
    std::vector<uint32_t> table(count * 2 * M, 0);
    for (int64_t i = start[q]; i < start[q + 1]; ++i) {
      uint32_t* mine = table.data() + packed.slot(to[i]) * 2 * M;
      ++mine[packed.y(to[i])];
      ++mine[M + packed.p(to[i])];
    }
    for (int64_t s = 0; s < count; ++s) body(q, first + s, table.data() + s * 2 * M);
  });
}

// Calls body(part, slot, counts [2, M]) for every slot, parts in any order, a part's slots in rising order; size(parts) before.
template <class F, class Size, class Body>
void for_each_histogram(const F* y, const F* p, const Slots& slots, int64_t n, const Bins& bins, int64_t M, int threads,
                        const Size& size, const Body& body) {
  const int64_t each = std::max({int64_t(1), kTable / (2 * M), (slots.count + kParts - 1) / kParts});
  const int shift = std::bit_width(static_cast<uint64_t>(each - 1)), bits = std::bit_width(static_cast<uint64_t>(M - 1));
  const int64_t parts = ((slots.count - 1) >> shift) + 1;
  size(parts);
  if (shift + 2 * bits <= 32) fill_parts<uint32_t>(y, p, slots, n, bins, M, shift, bits, parts, threads, body);
  else if (shift + 2 * bits <= 64) fill_parts<uint64_t>(y, p, slots, n, bins, M, shift, bits, parts, threads, body);
  else fail("edges", "fewer, for so many groups", std::to_string(M + 1));
}

double divergence_term(double a, double b) {
  const double sum = a + b;
  return (a > 0 ? a * std::log(2 * a / sum) : 0) + (b > 0 ? b * std::log(2 * b / sum) : 0);
}

void check_table(int64_t n, const array<double>& edges) {
  if (edges.ndim() != 1 || edges.size() < 2) fail("edges", "shape [M+1], M at least 1", shape_text(edges));
  if (n >= int64_t(1) << 32) fail("y", "fewer than 2^32 rows", std::to_string(n));
  if (edges.size() > int64_t(1) << 20) fail("edges", "at most 2^20", std::to_string(edges.size()));
}

// (sum over groups of the divergence in nats, groups)
template <class F>
py::tuple histogram_jsd(const array<F>& y, const array<F>& p, const array<int64_t>& group, const array<double>& edges,
                        int threads) {
  const int64_t n = y.size(), M = edges.size() - 1;
  check_shape("y", y, "N", n);
  check_shape("prediction", p, "N", n);
  check_shape("group", group, "N", n);
  check_table(n, edges);
  const F *from = y.data(), *to = p.data();
  const int64_t* ids = group.data();
  const double* e = edges.data();
  double total = 0;
  int64_t groups = 0;
  {
    py::gil_scoped_release release;
    constexpr uint32_t kSmall = 32;
    std::vector<double> term(kSmall * kSmall);
    for (uint32_t a = 0; a < kSmall; ++a)
      for (uint32_t b = 0; b < kSmall; ++b) term[a * kSmall + b] = divergence_term(a, b);
    struct Part {
      double sum = 0;
      int64_t groups = 0;
    };
    std::vector<Part> each;
    const Slots slots(ids, n);
    for_each_histogram(
        from, to, slots, n, Bins(e, M + 1), M, threads, [&](int64_t parts) { each.resize(parts); },
        [&](int64_t q, int64_t, const uint32_t* count) {
          double sum = 0;
          int64_t rows = 0;
          for (int64_t m = 0; m < M; ++m) {
            const uint32_t a = count[m], b = count[M + m];
            rows += a;
            sum += (a | b) < kSmall ? term[a * kSmall + b] : a == b ? 0 : divergence_term(a, b);
          }
          if (!rows) return;
          each[q].sum += sum / (2 * static_cast<double>(rows));
          ++each[q].groups;
        });
    for (const auto& part : each) total += part.sum, groups += part.groups;
  }
  return py::make_tuple(total, groups);
}

// (ids [G] rising, counts [G, 2, M])
template <class F>
py::tuple histogram_counts(const array<F>& y, const array<F>& p, const array<int64_t>& group, const array<double>& edges,
                           int threads) {
  const int64_t n = y.size(), M = edges.size() - 1;
  check_shape("y", y, "N", n);
  check_shape("prediction", p, "N", n);
  check_shape("group", group, "N", n);
  check_table(n, edges);
  const F *from = y.data(), *to = p.data();
  const int64_t* g = group.data();
  const double* e = edges.data();
  std::vector<std::vector<int64_t>> ids;
  std::vector<std::vector<uint32_t>> counts;
  {
    py::gil_scoped_release release;
    const Slots slots(g, n);
    for_each_histogram(
        from, to, slots, n, Bins(e, M + 1), M, threads, [&](int64_t parts) { ids.resize(parts), counts.resize(parts); },
        [&](int64_t q, int64_t s, const uint32_t* count) {
          uint32_t any = 0;
          for (int64_t m = 0; m < M; ++m) any |= count[m];
          if (!any) return;
          ids[q].push_back(slots.id(s));
          counts[q].insert(counts[q].end(), count, count + 2 * M);
        });
  }
  int64_t G = 0;
  for (const auto& part : ids) G += static_cast<int64_t>(part.size());
  array<int64_t> all_ids(G);
  array<int64_t> all({G, int64_t(2), M});
  int64_t *id = all_ids.mutable_data(), *at = all.mutable_data();
  for (size_t q = 0; q < ids.size(); ++q) {
    id = std::copy(ids[q].begin(), ids[q].end(), id);
    at = std::copy(counts[q].begin(), counts[q].end(), at);
  }
  return py::make_tuple(all_ids, all);
}

// counts [A, B] += 1 at the bins of each row.
template <class F>
void joint_counts(const array<F>& y, const array<F>& p, const array<double>& y_edges, const array<double>& p_edges,
                  array<int64_t>& counts, int threads) {
  const int64_t n = y.size();
  check_shape("y", y, "N", n);
  check_shape("prediction", p, "N", n);
  check_table(0, y_edges);
  check_table(0, p_edges);
  const int64_t B = p_edges.size() - 1;
  if (counts.ndim() != 2 || counts.shape(0) != y_edges.size() - 1 || counts.shape(1) != B) {
    fail("counts", "shape [A, B], as the edges", shape_text(counts));
  }
  const F *from = y.data(), *to = p.data();
  int64_t* table = counts.mutable_data();
  const double *ye = y_edges.data(), *pe = p_edges.data();
  const int64_t A = y_edges.size() - 1;
  py::gil_scoped_release release;
  const Bins by(ye, A + 1), bp(pe, B + 1);
  constexpr int64_t kAhead = 256;
  parallel_for((n + kRows - 1) / kRows, threads, [&](int64_t c) {
    int64_t* at[kAhead];
    for (int64_t i = c * kRows; i < std::min(n, (c + 1) * kRows); i += kAhead) {
      const int64_t m = std::min({kAhead, n - i, (c + 1) * kRows - i});
      for (int64_t r = 0; r < m; ++r) {
        at[r] = table + by(from[i + r]) * B + bp(to[i + r]);
        __builtin_prefetch(at[r], 1);
      }
      for (int64_t r = 0; r < m; ++r) std::atomic_ref<int64_t>(*at[r]).fetch_add(1, std::memory_order_relaxed);
    }
  });
}

template <class F>
void bind(py::module_& m) {
  using py::arg;
  m.def("histogram_jsd", &histogram_jsd<F>, arg("y").noconvert(), arg("prediction").noconvert(), arg("group").noconvert(),
        arg("edges"), arg("num_threads"));
  m.def("histogram_counts", &histogram_counts<F>, arg("y").noconvert(), arg("prediction").noconvert(),
        arg("group").noconvert(), arg("edges"), arg("num_threads"));
  m.def("joint_counts", &joint_counts<F>, arg("y").noconvert(), arg("prediction").noconvert(), arg("y_edges"), arg("p_edges"),
        arg("counts").noconvert(), arg("num_threads"));
}

}  // namespace

void bind_scores_histogram(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace ordkernels::host
