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
constexpr int64_t kTable = 96 * 1024;        // counts in a part's table: 192 KiB
constexpr uint64_t kParts = 1024;

// The bin of a number: how many inner edges are at most it. A grid over the edges' range says which edges to compare: one, where
// the grid keeps the edges apart.
template <class F>
class Bins {
 public:
  Bins(const double* edges, int64_t count) : inner_(edges + 1, edges + count - 1), first_(kCells + 1, 0) {
    const int64_t m = static_cast<int64_t>(inner_.size());
    if (m > 1) {
      low_ = at_least(inner_.front());
      scale_ = kCells / (at_least(inner_.back()) - low_);
      if (!(scale_ > 0 && scale_ <= std::numeric_limits<F>::max() && std::fabs(low_) <= std::numeric_limits<F>::max())) low_ = scale_ = 0;
    }
    for (double e : inner_) ++first_[cell(at_least(e)) + 1];
    apart_ = *std::max_element(first_.begin(), first_.end()) <= 1;
    for (int64_t c = 0; c < kCells; ++c) first_[c + 1] += first_[c];  // edges in earlier cells
    if (!apart_) return;
    only_.resize(kCells);
    for (int64_t c = 0; c < kCells; ++c) {
      const uint32_t before = first_[c];
      // Where there is none, minus infinity stands for it, which all are at least; before - 1 may wrap, and + 1 wraps back.
      if (first_[c + 1] == before) only_[c] = {-std::numeric_limits<F>::infinity(), before - 1};
      else only_[c] = {at_least(inner_[before]), before};
    }
  }

  // to[i] = the bin of x[i], for n up to kBlock; whether any x[i] is NaN, which has none.
  static constexpr int64_t kBlock = 256;
  bool operator()(const F* __restrict x, int64_t n, uint32_t* __restrict to) const {
    int32_t nan = 0;
    if (!apart_) {
      for (int64_t i = 0; i < n; ++i) nan |= x[i] != x[i], to[i] = search(x[i]);
      return nan;
    }
    const F low = low_, scale = scale_;
    const Only* only = only_.data();
    int32_t at[kBlock];  // first all cells, in vectors; then all look-ups
#pragma omp simd reduction(| : nan)
    for (int64_t i = 0; i < n; ++i) {
      nan |= x[i] != x[i];
      F t = (x[i] - low) * scale;
      t = t > 0 ? t : 0;
      at[i] = static_cast<int32_t>(t < kCells - 1 ? t : kCells - 1);
    }
    for (int64_t i = 0; i < n; ++i) {
      const Only c = only[at[i]];
      to[i] = c.before + (x[i] >= c.edge);
    }
    return nan;
  }

 private:
  static constexpr int32_t kCells = 2048;
  struct Only {  // the edge of a cell, and the edges before it
    F edge;
    uint32_t before;
  };

  // A number of F is at least e if it is at least this one.
  static F at_least(double e) {
    const F f = static_cast<F>(e);
    return f < e ? std::nextafter(f, std::numeric_limits<F>::infinity()) : f;
  }
  int32_t cell(F x) const {  // never falls as x rises, which is all that is asked of it
    F t = (x - low_) * scale_;
    t = t > 0 ? t : 0;
    return static_cast<int32_t>(t < kCells - 1 ? t : kCells - 1);
  }
  uint32_t search(F x_) const {
    const double x = x_;
    const int32_t c = cell(x_);
    uint32_t low = first_[c], high = first_[c + 1];
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (inner_[middle] <= x) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  std::vector<double> inner_;
  std::vector<uint32_t> first_;
  std::vector<Only> only_;
  F low_ = 0, scale_ = 0;
  bool apart_ = false;
};

// Groups as slots 0, 1, ..., 2^shift of them to a part: by their ids' distance from the least (rounded down to a whole part), or,
// where that would leave most slots empty, by rank.
struct Slots {
  const int64_t* group;
  int shift;
  int64_t least = 0, count = 0;
  std::vector<int64_t> slot, ids;  // by rank: of each row; of each slot
  std::vector<int64_t> rows;       // [chunks, parts]

  Slots(const int64_t* g, int64_t n, int shift_, int threads) : group(g), shift(shift_) {
    if (!n) return;
    const int64_t chunks = (n + kRows - 1) / kRows;
    // One look at the ids: every chunk's least and greatest, and how many rows each part in between has.
    struct Chunk {
      int64_t low, high;
      std::vector<uint32_t> rows;  // from the part of `low` on; none, where they would be many
    };
    std::vector<Chunk> seen(chunks);
    parallel_for(chunks, threads, [&](int64_t c) {
      const int64_t *from = g + c * kRows, *end = g + std::min(n, (c + 1) * kRows);
      const auto [low, high] = least_and_greatest(from, end);
      Chunk& chunk = seen[c] = {low, high, {}};
      const int by = shift_;
      const int64_t first = low >> by;
      if (static_cast<uint64_t>(high >> by) - static_cast<uint64_t>(first) >= kChunkParts) return;
      chunk.rows.assign((high >> by) - first + 1, 0);
      uint32_t* to = chunk.rows.data();
      for (const int64_t* i = from; i < end; ++i) ++to[(*i >> by) - first];
    });
    int64_t low = seen[0].low, high = seen[0].high;
    bool counted = true;
    for (const auto& c : seen) low = std::min(low, c.low), high = std::max(high, c.high), counted &= !c.rows.empty();
    const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
    const int fine = shift;
    if (range < 4 * static_cast<uint64_t>(n) + 1024) {
      while ((range >> shift) + 2 > kParts) ++shift;
      least = low >> shift << shift;
      count = high - least + 1;
    } else {
      by_rank(n);
      while (static_cast<uint64_t>((count - 1) >> shift) >= kParts) ++shift;
      counted = false;
    }
    rows.assign(chunks * parts(), 0);
    parallel_for(chunks, threads, [&](int64_t c) {
      int64_t* to = rows.data() + c * parts();
      const int by = shift, more = shift - fine;
      if (counted) {
        const int64_t first = seen[c].low >> fine, from = least >> by;
        for (int64_t j = 0; j < static_cast<int64_t>(seen[c].rows.size()); ++j) to[((first + j) >> more) - from] += seen[c].rows[j];
        return;
      }
      const auto [at, zero] = of_rows();
      for (int64_t i = c * kRows, end = std::min(n, (c + 1) * kRows); i < end; ++i) ++to[(at[i] - zero) >> by];
    });
  }

  int64_t parts() const { return count ? ((count - 1) >> shift) + 1 : 0; }
  // The slot of row i is first[i] - second.
  std::pair<const int64_t*, int64_t> of_rows() const { return slot.empty() ? std::pair(group, least) : std::pair(slot.data(), int64_t(0)); }
  int64_t id(int64_t s) const { return ids.empty() ? s + least : ids[s]; }

 private:
  static constexpr uint64_t kChunkParts = 4096;

  static std::pair<int64_t, int64_t> least_and_greatest(const int64_t* from, const int64_t* end) {
    constexpr int kApart = 4;  // chains of comparisons
    int64_t low[kApart], high[kApart];
    std::fill_n(low, kApart, *from), std::fill_n(high, kApart, *from);
    for (; from + kApart <= end; from += kApart)
      for (int l = 0; l < kApart; ++l) low[l] = std::min(low[l], from[l]), high[l] = std::max(high[l], from[l]);
    for (; from < end; ++from) low[0] = std::min(low[0], *from), high[0] = std::max(high[0], *from);
    return {*std::min_element(low, low + kApart), *std::max_element(high, high + kApart)};
  }

  void by_rank(int64_t n) {
    std::vector<int64_t> order, starts;
    group_events(group, n, order, starts);
    count = static_cast<int64_t>(starts.size()) - 1;
    slot.resize(n);
    ids.resize(count);
    for (int64_t s = 0; s < count; ++s) {
      ids[s] = group[order[starts[s]]];
      for (int64_t i = starts[s]; i < starts[s + 1]; ++i) slot[order[i]] = s;
    }
  }
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

// False: there was a NaN.
template <class Word, class F, class Body>
bool fill_parts(const F* y, const F* p, const Slots& slots, int64_t n, const Bins<F>& bins, int64_t M, int bits, int threads,
                const Body& body) {
  const int64_t chunks = (n + kRows - 1) / kRows, parts = slots.parts(), each = int64_t(1) << slots.shift;
  const Packed<Word> packed{bits};
  std::vector<int64_t> next = slots.rows, start(parts + 1);
  int64_t sum = 0;
  for (int64_t q = 0; q < parts; ++q) {
    start[q] = sum;
    for (int64_t c = 0; c < chunks; ++c) sum += std::exchange(next[c * parts + q], sum);
  }
  start[parts] = n;
  Buffer<Word> words(n);
  Word* to = words.data();
  std::atomic<bool> nan = false;
  parallel_for(chunks, threads, [&](int64_t c) {
    const auto [slot, least] = slots.of_rows();
    const int shift = slots.shift;
    int64_t* mine = next.data() + c * parts;
    uint32_t of_y[Bins<F>::kBlock], of_p[Bins<F>::kBlock];
    const int64_t end = std::min(n, (c + 1) * kRows);
    for (int64_t i = c * kRows; i < end; i += Bins<F>::kBlock) {
      const int64_t m = std::min(Bins<F>::kBlock, end - i);
      const bool in_y = bins(y + i, m, of_y), in_p = bins(p + i, m, of_p);
      if (in_y || in_p) nan = true;
      for (int64_t r = 0; r < m; ++r) {
        const int64_t s = slot[i + r] - least;
        to[mine[s >> shift]++] = packed.pack(s & (each - 1), of_y[r], of_p[r]);
      }
    }
  });
  if (nan) return false;
  std::atomic<int64_t> part{0};
  parallel_for(std::min<int64_t>(threads, parts), threads, [&](int64_t) {  // tables of a thread: fresh ones would cost their first touch
    const int64_t size = std::min(each, slots.count) * 2 * M;
    std::vector<uint16_t> narrow(size, 0);
    std::vector<uint32_t> wide;
    for (int64_t q; (q = part.fetch_add(1)) < parts;) {
      const Word *first = to + start[q], *last = to + start[q + 1];
      const auto fill = [&](auto* counts) {
        for (const Word* w = first; w < last; ++w) {
          auto* mine = counts + packed.slot(*w) * 2 * M;
          ++mine[packed.y(*w)];
          ++mine[M + packed.p(*w)];
        }
        const int64_t count = std::min(each, slots.count - (q << slots.shift));
        for (int64_t s = 0; s < count; ++s) body(q, slots.id((q << slots.shift) + s), counts + s * 2 * M);
        std::fill_n(counts, count * 2 * M, 0);
      };
      if (last - first <= std::numeric_limits<uint16_t>::max()) fill(narrow.data());
      else wide.resize(size), fill(wide.data());
    }
  });
  return true;
}

// Calls body(part, id, counts [2, M]) for every slot, parts in any order, a part's slots in rising order; size(parts) before.
// False, and no call: there was a NaN.
template <class F, class Size, class Body>
bool for_each_histogram(const F* y, const F* p, const int64_t* group, int64_t n, const Bins<F>& bins, int64_t M, int threads,
                        const Size& size, const Body& body) {
  const int64_t each = std::max(int64_t(1), kTable / (2 * M));
  const Slots slots(group, n, std::bit_width(static_cast<uint64_t>(each - 1)), threads);
  const int bits = std::bit_width(static_cast<uint64_t>(M - 1)), all = slots.shift + 2 * bits;
  size(slots.parts());
  if (!n) return true;
  if (all <= 32) return fill_parts<uint32_t>(y, p, slots, n, bins, M, bits, threads, body);
  if (all <= 64) return fill_parts<uint64_t>(y, p, slots, n, bins, M, bits, threads, body);
  fail("edges", "fewer, for so many groups", std::to_string(M + 1));
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

// (sum over groups of the divergence in nats, NaN if a number is; groups)
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
    const double* table = term.data();
    struct Part {
      double sum = 0;
      int64_t groups = 0;
    };
    std::vector<Part> each;
    const bool numbers = for_each_histogram(
        from, to, ids, n, Bins<F>(e, M + 1), M, threads, [&](int64_t parts) { each.resize(parts); },
        [&](int64_t q, int64_t, const auto* count) {
          double sum = 0, odd = 0;  // two chains of additions
          int64_t rows = 0;
          const auto of_bin = [&](int64_t m) {
            const uint32_t a = count[m], b = count[M + m];
            rows += a;
            return (a | b) < kSmall ? table[a * kSmall + b] : a == b ? 0 : divergence_term(a, b);
          };
          int64_t m = 0;
          for (; m + 2 <= M; m += 2) sum += of_bin(m), odd += of_bin(m + 1);
          if (m < M) sum += of_bin(m);
          if (!rows) return;
          each[q].sum += (sum + odd) / (2 * static_cast<double>(rows));
          ++each[q].groups;
        });
    if (!numbers) total = std::numeric_limits<double>::quiet_NaN();
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
    for_each_histogram(
        from, to, g, n, Bins<F>(e, M + 1), M, threads, [&](int64_t parts) { ids.resize(parts), counts.resize(parts); },
        [&](int64_t q, int64_t id, const auto* count) {
          uint32_t any = 0;
          for (int64_t m = 0; m < M; ++m) any |= count[m];
          if (!any) return;
          ids[q].push_back(id);
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
  const Bins<F> by(ye, A + 1), bp(pe, B + 1);
  constexpr int64_t kAhead = Bins<F>::kBlock;
  parallel_for((n + kRows - 1) / kRows, threads, [&](int64_t c) {
    int64_t* at[kAhead];
    uint32_t row[kAhead], column[kAhead];
    for (int64_t i = c * kRows; i < std::min(n, (c + 1) * kRows); i += kAhead) {
      const int64_t m = std::min({kAhead, n - i, (c + 1) * kRows - i});
      by(from + i, m, row), bp(to + i, m, column);
      for (int64_t r = 0; r < m; ++r) {
        at[r] = table + row[r] * B + column[r];
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
