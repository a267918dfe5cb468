// Histograms of labels and predictions: by group, for the Jensen-Shannon divergence, and jointly, for a binned XAUC.
//
// Rows are first put in the order of parts of the groups, chunk by chunk, so that a part's counts stay in the second
// cache; a row takes its bins along.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "host/buffer.h"
#include "host/checks.h"
#include "host/parallel.h"
#include "host/quantiles_history.h"
#include "host/scatter.h"

namespace ordkernels::host {

namespace {

namespace py = pybind11;

template <class F>
using array = py::array_t<F, py::array::c_style>;

constexpr int64_t kRows = 1 << 16;     // rows per unit of work
constexpr int64_t kTable = 96 * 1024;  // counts in a part's table: 192 KiB
constexpr int64_t kMostParts = 1024;
constexpr int64_t kPrefetched = 4;  // lines of the next chunk's rows

// The bin of a number: how many inner edges are at most it. A grid over the edges' range says which edges to compare:
// one, where the grid keeps the edges apart.
template <class F>
class Bins {
 public:
  Bins(const double* edges, int64_t count) : inner_(edges + 1, edges + count - 1) {
    const int64_t m = static_cast<int64_t>(inner_.size());
    cells_ = std::min(kCells, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(2 * m + 8))));
    while (!(apart_ = count_edges()) && cells_ < kCells) {
      cells_ *= 2;
    }
    for (int64_t c = 0; c < cells_; ++c) {
      first_[c + 1] += first_[c];  // edges in earlier cells
    }
    if (!apart_) {
      return;
    }
    only_.resize(cells_);
    for (int64_t c = 0; c < cells_; ++c) {
      const uint32_t before = first_[c];
      // Where there is none, minus infinity stands for it, which all are at least; before - 1 may wrap, and + 1 wraps
      // back.
      if (first_[c + 1] == before) {
        only_[c] = {-std::numeric_limits<F>::infinity(), before - 1};
      } else {
        only_[c] = {at_least(inner_[before]), before};
      }
    }
  }

  // to[i] = the bin of x[i], for n up to kBlock; whether any x[i] is NaN, which has none.
  static constexpr int64_t kBlock = 256;
  bool operator()(const F* __restrict x, int64_t n, uint32_t* __restrict to) const {
    int32_t nan = 0;
    if (!apart_) {
      for (int64_t i = 0; i < n; ++i) {
        nan |= x[i] != x[i], to[i] = search(x[i]);
      }
      return nan;
    }
    const F low = low_, scale = scale_, last = static_cast<F>(cells_ - 1);
    const Only* only = only_.data();
    int32_t at[kBlock];  // first all cells, in vectors; then all look-ups
#pragma omp simd reduction(| : nan)
    for (int64_t i = 0; i < n; ++i) {
      nan |= x[i] != x[i];
      F t = (x[i] - low) * scale;
      t = t > 0 ? t : 0;
      at[i] = static_cast<int32_t>(t < last ? t : last);
    }
    int64_t i = 0;
    if constexpr (sizeof(Only) == 8) {
      typedef int64_t Pair __attribute__((vector_size(16)));
      typedef int32_t Ints __attribute__((vector_size(16)));
      typedef float Floats __attribute__((vector_size(16)));
      for (; i + 4 <= n; i += 4) {
        Pair a, b;
        for (int l = 0; l < 2; ++l) {
          a[l] = std::bit_cast<int64_t>(only[at[i + l]]), b[l] = std::bit_cast<int64_t>(only[at[i + 2 + l]]);
        }
        const auto edge =
            std::bit_cast<Floats>(__builtin_shufflevector(std::bit_cast<Ints>(a), std::bit_cast<Ints>(b), 0, 2, 4, 6));
        const Ints before = __builtin_shufflevector(std::bit_cast<Ints>(a), std::bit_cast<Ints>(b), 1, 3, 5, 7);
        Floats v;
        std::memcpy(&v, x + i, sizeof v);
        const Ints bin = before - (v >= edge);
        std::memcpy(to + i, &bin, sizeof bin);
      }
    }
    for (; i < n; ++i) {
      to[i] = only[at[i]].before + (x[i] >= only[at[i]].edge);
    }
    return nan;
  }

 private:
  static constexpr int64_t kCells = 2048;  // at most
  struct Only {                            // the edge of a cell, and the edges before it
    F edge;
    uint32_t before;
  };

  // A number of F is at least e if it is at least this one.
  static F at_least(double e) {
    const F f = static_cast<F>(e);
    return f < e ? std::nextafter(f, std::numeric_limits<F>::infinity()) : f;
  }
  int32_t cell(F x) const {  // never falls as x rises, which is all that is asked of it
    const F t = (x - low_) * scale_, last = static_cast<F>(cells_ - 1);
    return static_cast<int32_t>(t > 0 ? std::min(t, last) : 0);
  }
  bool count_edges() {  // first_[c + 1] = the edges in cell c; whether there is one at most in each
    const int64_t m = static_cast<int64_t>(inner_.size());
    low_ = scale_ = 0;
    if (m > 1) {
      low_ = at_least(inner_.front());
      scale_ = static_cast<F>(cells_) / (at_least(inner_.back()) - low_);
      if (!(scale_ > 0 && scale_ <= std::numeric_limits<F>::max() &&
            std::fabs(low_) <= std::numeric_limits<F>::max())) {
        low_ = scale_ = 0;
      }
    }
    first_.assign(cells_ + 1, 0);
    for (double e : inner_) {
      ++first_[cell(at_least(e)) + 1];
    }
    return *std::max_element(first_.begin(), first_.end()) <= 1;
  }
  uint32_t search(F x_) const {
    const double x = x_;
    const int32_t c = cell(x_);
    uint32_t low = first_[c], high = first_[c + 1];
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (inner_[middle] <= x) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  std::vector<double> inner_;
  std::vector<uint32_t> first_;
  std::vector<Only> only_;
  int64_t cells_ = 0;
  F low_ = 0, scale_ = 0;
  bool apart_ = false;
};

// A row on its way: its slot within the part and its two bins, in as few bits as hold them.
template <class Word>
struct Packed {
  int bits;  // of a bin
  Word pack(Word slot, Word y, Word p) const { return ((slot << bits | y) << bits) | p; }
  uint64_t y(Word w) const { return (w >> bits) & ((Word(1) << bits) - 1); }
  uint64_t p(Word w) const { return w & ((Word(1) << bits) - 1); }
  uint64_t slot(Word w) const { return w >> bits >> bits; }
};

// The part of a slot is slot >> shift. A chunk's rows in the order of their parts: those of part first + j from
// start[j] to start[j + 1].
struct Chunk {
  int64_t least = 0, greatest = 0, first = 0;  // two slots; a part
  std::vector<uint32_t> start;
};

uint64_t distance(int64_t low, int64_t high) { return static_cast<uint64_t>(high) - static_cast<uint64_t>(low); }

std::pair<int64_t, int64_t> least_and_greatest(const int64_t* from, const int64_t* end) {
  constexpr int kChains = 4;  // of comparisons
  int64_t low[kChains], high[kChains];
  std::fill_n(low, kChains, *from), std::fill_n(high, kChains, *from);
  for (; from + kChains <= end; from += kChains) {
    for (int l = 0; l < kChains; ++l) {
      low[l] = std::min(low[l], from[l]), high[l] = std::max(high[l], from[l]);
    }
  }
  for (; from < end; ++from) {
    low[0] = std::min(low[0], *from), high[0] = std::max(high[0], *from);
  }
  return {*std::min_element(low, low + kChains), *std::max_element(high, high + kChains)};
}

// Whether few of the slots would have rows. Where it is false, distances hold in 32 bits.
bool sparse(int64_t least, int64_t greatest, int64_t n) {
  return distance(least, greatest) >= std::min(4 * static_cast<uint64_t>(n) + 1024, uint64_t(1) << 31);
}

bool parts_apart(int64_t least, int64_t greatest, int shift) {
  return distance(least >> shift, greatest >> shift) >= kMostParts;
}

enum class Outcome { kDone, kNaN, kApart };

// Chunk after chunk is looked at, counted and put in order while it is in the second cache; then the tables are filled,
// part after part. kApart: the slots lie too far apart for this shift, and nothing was called. names: of the slots, or
// null: themselves.
template <class Word, class F, class Size, class Body>
Outcome fill_parts(const F* y, const F* p, const int64_t* slot, const int64_t* names, int64_t n, int shift,
                   const Bins<F>& bins, int64_t M, int bits, int threads, const Size& size, const Body& body) {
  const int64_t each = int64_t(1) << shift;
  const auto inside = static_cast<uint32_t>(each - 1);
  const Packed<Word> packed{bits};
  Buffer<Word> words(n);
  Word* all = words.data();
  std::vector<Chunk> chunks((n + kRows - 1) / kRows);
  const int64_t C = static_cast<int64_t>(chunks.size());
  std::atomic<bool> nan = false, apart = false;
  std::atomic<int64_t> turn{0};
  parallel_for(std::min<int64_t>(threads, C), threads, [&](int64_t) {
    Buffer<uint32_t> buffer(kRows);
    uint32_t* from_zero = buffer.data();  // a row's slot, counted from the chunk's first part
    const int by = shift;
    for (int64_t c; (c = turn.fetch_add(1)) < C && !nan && !apart;) {
      const int64_t from = c * kRows, rows = std::min(kRows, n - from);
      const int64_t* mine = slot + from;
      Chunk& chunk = chunks[c];
      std::tie(chunk.least, chunk.greatest) = least_and_greatest(mine, mine + rows);
      if (parts_apart(chunk.least, chunk.greatest, by)) {
        apart = true;
        return;
      }
      chunk.first = chunk.least >> by;
      const int64_t parts = (chunk.greatest >> by) - chunk.first + 1, zero = chunk.first << by;
      for (int64_t i = 0; i < rows; ++i) {
        from_zero[i] = static_cast<uint32_t>(mine[i] - zero);
      }
      uint32_t next[kMostParts] = {}, sum = 0;
      for (int64_t i = 0; i < rows; ++i) {
        ++next[from_zero[i] >> by];
      }
      chunk.start.resize(parts + 1);
      for (int64_t q = 0; q < parts; ++q) {
        chunk.start[q] = sum, sum += std::exchange(next[q], sum);
      }
      chunk.start[parts] = sum;
      Word* to = all + from;
      constexpr int64_t kBlock = Bins<F>::kBlock;
      uint32_t of_y[kBlock], of_p[kBlock];
      Word word[kBlock];
      for (int64_t i = 0; i < rows; i += kBlock) {
        const int64_t m = std::min(kBlock, rows - i);
        const bool in_y = bins(y + from + i, m, of_y), in_p = bins(p + from + i, m, of_p);
        if (in_y || in_p) {
          nan = true;
        }
        const uint32_t* s = from_zero + i;
        for (int64_t r = 0; r < m; ++r) {
          word[r] = packed.pack(s[r] & inside, of_y[r], of_p[r]);
        }
        scatter(m, to, next, [&](int64_t r) { return s[r] >> by; }, [&](int64_t r) { return word[r]; });
      }
    }
  });
  if (apart) {
    return Outcome::kApart;
  }
  if (nan) {
    return Outcome::kNaN;
  }
  int64_t least = chunks[0].least, greatest = chunks[0].greatest;
  for (const Chunk& c : chunks) {
    least = std::min(least, c.least), greatest = std::max(greatest, c.greatest);
  }
  const int64_t first = least >> shift;
  if (parts_apart(least, greatest, shift) || sparse(least, greatest, n)) {
    return Outcome::kApart;
  }
  const int64_t parts = (greatest >> shift) - first + 1;
  size(parts);
  const auto rows_of = [&](int64_t c, int64_t q) {
    const Chunk& chunk = chunks[c];
    const int64_t j = first + q - chunk.first, end = static_cast<int64_t>(chunk.start.size()) - 1;
    const Word* from = all + c * kRows;
    return 0 <= j && j < end ? std::pair(from + chunk.start[j], from + chunk.start[j + 1]) : std::pair(from, from);
  };
  std::atomic<int64_t> part{0};
  parallel_for(std::min<int64_t>(threads, parts), threads,
               [&](int64_t) {  // tables of a thread: fresh ones would cost their first touch
                 const int64_t table = std::min(each, greatest - (first << shift) + 1) * 2 * M;
                 std::vector<uint16_t> narrow(table, 0);
                 std::vector<uint32_t> wide;
                 for (int64_t q; (q = part.fetch_add(1)) < parts;) {
                   const auto fill = [&](auto* counts) {
                     for (int64_t c = 0; c < C; ++c) {
                       const auto [from, end] = rows_of(c, q);
                       if (c + 1 < C) {
                         const auto [next, until] = rows_of(c + 1, q);
                         for (int64_t i = 0; i < kPrefetched; ++i) {
                           __builtin_prefetch(reinterpret_cast<const char*>(next) + 64 * i);
                         }
                       }
                       for (const Word* w = from; w < end; ++w) {
                         auto* mine = counts + packed.slot(*w) * 2 * M;
                         ++mine[packed.y(*w)];
                         ++mine[M + packed.p(*w)];
                       }
                     }
                     const int64_t zero = (first + q) << shift, count = std::min(each, greatest - zero + 1);
                     for (int64_t s = 0; s < count; ++s) {
                       body(q, names ? names[zero + s] : zero + s, counts + s * 2 * M);
                     }
                     std::fill_n(counts, count * 2 * M, 0);
                   };
                   int64_t rows = 0;
                   for (int64_t c = 0; c < C; ++c) {
                     rows += rows_of(c, q).second - rows_of(c, q).first;
                   }
                   if (rows <= std::numeric_limits<uint16_t>::max()) {
                     fill(narrow.data());
                   } else {
                     wide.resize(table), fill(wide.data());
                   }
                 }
               });
  return Outcome::kDone;
}

// Groups by rank: the rank of every row; the groups, rising.
void by_rank(const int64_t* group, int64_t n, std::vector<int64_t>& rank, std::vector<int64_t>& ids) {
  std::vector<int64_t> order, starts;
  group_events(group, n, order, starts);
  rank.resize(n);
  ids.resize(starts.size() - 1);
  for (size_t s = 0; s < ids.size(); ++s) {
    ids[s] = group[order[starts[s]]];
    for (int64_t i = starts[s]; i < starts[s + 1]; ++i) {
      rank[order[i]] = static_cast<int64_t>(s);
    }
  }
}

// Calls body(part, id, counts [2, M]) for every group, and for ids between that no row has, parts in any order, a
// part's ids rising; size(parts) before. False, and no call: there was a NaN.
template <class F, class Size, class Body>
bool for_each_histogram(const F* y, const F* p, const int64_t* group, int64_t n, const Bins<F>& bins, int64_t M,
                        int threads, const Size& size, const Body& body) {
  if (!n) {
    return true;
  }
  const int bits = std::bit_width(static_cast<uint64_t>(M - 1));
  const auto fill = [&](const int64_t* slot, const int64_t* names, int shift) {
    if (shift + 2 * bits <= 32) {
      return fill_parts<uint32_t>(y, p, slot, names, n, shift, bins, M, bits, threads, size, body);
    }
    if (shift + 2 * bits <= 64) {
      return fill_parts<uint64_t>(y, p, slot, names, n, shift, bins, M, bits, threads, size, body);
    }
    fail("edges", "fewer, for so many groups", std::to_string(M + 1));
  };
  int shift = std::bit_width(static_cast<uint64_t>(std::max(int64_t(1), kTable / (2 * M)) - 1));
  Outcome outcome = fill(group, nullptr, shift);
  if (outcome == Outcome::kApart) {  // larger parts, and where most slots would be empty, ranks for ids
    auto [least, greatest] = least_and_greatest(group, group + n);
    std::vector<int64_t> rank, ids;
    if (sparse(least, greatest, n)) {
      by_rank(group, n, rank, ids);
      least = 0, greatest = static_cast<int64_t>(ids.size()) - 1;
    }
    while (parts_apart(least, greatest, shift)) {
      ++shift;
    }
    outcome = rank.empty() ? fill(group, nullptr, shift) : fill(rank.data(), ids.data(), shift);
    if (outcome == Outcome::kApart) {
      fail("group", "at most 2^31 groups", std::to_string(ids.size()));
    }
  }
  return outcome == Outcome::kDone;
}

double divergence_term(double a, double b) {
  const double sum = a + b;
  return (a > 0 ? a * std::log(2 * a / sum) : 0) + (b > 0 ? b * std::log(2 * b / sum) : 0);
}

void check_table(int64_t n, const array<double>& edges) {
  if (edges.ndim() != 1 || edges.size() < 2) {
    fail("edges", "shape [M+1], M at least 1", shape_text(edges));
  }
  if (n >= int64_t(1) << 32) {
    fail("y", "fewer than 2^32 rows", std::to_string(n));
  }
  if (edges.size() > int64_t(1) << 20) {
    fail("edges", "at most 2^20", std::to_string(edges.size()));
  }
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
    for (uint32_t a = 0; a < kSmall; ++a) {
      for (uint32_t b = 0; b < kSmall; ++b) {
        term[a * kSmall + b] = divergence_term(a, b);
      }
    }
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
          for (; m + 2 <= M; m += 2) {
            sum += of_bin(m), odd += of_bin(m + 1);
          }
          if (m < M) {
            sum += of_bin(m);
          }
          if (!rows) {
            return;
          }
          each[q].sum += (sum + odd) / (2 * static_cast<double>(rows));
          ++each[q].groups;
        });
    if (!numbers) {
      total = std::numeric_limits<double>::quiet_NaN();
    }
    for (const auto& part : each) {
      total += part.sum, groups += part.groups;
    }
  }
  return py::make_tuple(total, groups);
}

// (ids [G] rising, counts [G, 2, M])
template <class F>
py::tuple histogram_counts(const array<F>& y, const array<F>& p, const array<int64_t>& group,
                           const array<double>& edges, int threads) {
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
          for (int64_t m = 0; m < M; ++m) {
            any |= count[m];
          }
          if (!any) {
            return;
          }
          ids[q].push_back(id);
          counts[q].insert(counts[q].end(), count, count + 2 * M);
        });
  }
  int64_t G = 0;
  for (const auto& part : ids) {
    G += static_cast<int64_t>(part.size());
  }
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
      for (int64_t r = 0; r < m; ++r) {
        std::atomic_ref<int64_t>(*at[r]).fetch_add(1, std::memory_order_relaxed);
      }
    }
  });
}

template <class F>
void bind(py::module_& m) {
  using py::arg;
  m.def("histogram_jsd", &histogram_jsd<F>, arg("y").noconvert(), arg("prediction").noconvert(),
        arg("group").noconvert(), arg("edges"), arg("num_threads"));
  m.def("histogram_counts", &histogram_counts<F>, arg("y").noconvert(), arg("prediction").noconvert(),
        arg("group").noconvert(), arg("edges"), arg("num_threads"));
  m.def("joint_counts", &joint_counts<F>, arg("y").noconvert(), arg("prediction").noconvert(), arg("y_edges"),
        arg("p_edges"), arg("counts").noconvert(), arg("num_threads"));
}

}  // namespace

void bind_scores_histogram(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace ordkernels::host
