// XAUC, and Spearman's correlation: scores of the order of rows. Keys of float32, float64, int32 or int64 arrays, of 32
// bits where both arrays have them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <limits>

#include "host/buffer.h"
#include "host/checks.h"
#include "host/pairs.h"
#include "host/quantiles_history.h"
#include "host/radix.h"

namespace ordkernels::host {

namespace {

namespace py = pybind11;

constexpr int64_t kLoad = 1 << 16;         // rows per unit of work where they are loaded
constexpr int64_t kGroupRows = 64 * 1024;  // rows per unit of work where groups are small

inline int64_t order_key(int64_t x) { return x; }
inline int32_t order_key(int32_t x) { return x; }
inline int64_t order_key(double x) { return to_key(x + 0.0); }  // -0.0 is 0.0
inline int32_t order_key(float x) { return to_key(x + 0.0f); }

// An array of one of the four types, and how to visit it as what it is.
struct Column {
  const void* data;
  int type;  // 0 float32, 1 int32, 2 float64, 3 int64
  bool wide() const { return type >= 2; }
  template <class F>
  void visit(const F& f) const {
    if (type == 0) {
      f(static_cast<const float*>(data));
    } else if (type == 1) {
      f(static_cast<const int32_t*>(data));
    } else if (type == 2) {
      f(static_cast<const double*>(data));
    } else {
      f(static_cast<const int64_t*>(data));
    }
  }
};

Column column(const char* name, const py::array& a, int64_t n) {
  check_shape(name, a, "N", n);
  if (!(a.flags() & py::array::c_style)) {
    fail(name, "a contiguous array", "another");
  }
  const char kind = a.dtype().kind();
  const auto size = a.itemsize();
  if ((kind != 'f' && kind != 'i') || (size != 4 && size != 8)) {
    fail(name, "float32, float64, int32 or int64", std::string(py::str(a.dtype())));
  }
  return {a.data(), (kind == 'i') + 2 * (size == 8)};
}

// rows[i] = (p, y, w) of row order[i] (null: i). Reversed: predictions in falling order.
template <class K, bool W>
void load_rows(const Column& y, const Column& p, const double* w, const int64_t* order, int64_t n, bool reversed,
               Row<K, W>* rows) {
  auto at = [&](int64_t i) { return order ? order[i] : i; };
  y.visit([&](const auto* from) {
    for (int64_t i = 0; i < n; ++i) {
      rows[i].y = order_key(from[at(i)]);
    }
  });
  p.visit([&](const auto* from) {
    for (int64_t i = 0; i < n; ++i) {
      const K k = order_key(from[at(i)]);
      rows[i].p = reversed ? ~k : k;
    }
  });
  if constexpr (W) {
    for (int64_t i = 0; i < n; ++i) {
      rows[i].w = w[at(i)];
    }
  }
}

Column from(const Column& c, int64_t i) { return {static_cast<const char*>(c.data) + i * (c.wide() ? 8 : 4), c.type}; }

template <class K, bool W>
PairCount<W> count_all(const Column& y, const Column& p, const double* w, int64_t n, bool reference, int threads) {
  Buffer<Row<K, W>> rows(n), spare(n);
  parallel_for((n + kLoad - 1) / kLoad, threads, [&](int64_t c) {
    const int64_t i = c * kLoad;
    load_rows<K, W>(from(y, i), from(p, i), w ? w + i : nullptr, nullptr, std::min(kLoad, n - i), reference,
                    rows.data() + i);
  });
  if constexpr (!W) {
    if (reference) {
      return count_pairs<K, W, true>(rows.data(), spare.data(), n, threads);
    }
  }
  return count_pairs<K, W, false>(rows.data(), spare.data(), n, threads);
}

// Of groups: the pairs within all of them; over those that have a pair, how many they are and the sums of their shares.
template <bool W>
struct GroupCount {
  PairCount<W> pairs;
  int64_t groups = 0;
  double concordant = 0, tied = 0;
};

template <class K, bool W>
GroupCount<W> count_groups(const Column& y, const Column& p, const double* w, const int64_t* group, int64_t n,
                           int threads) {
  std::vector<int64_t> order, starts;
  group_events(group, n, order, starts);
  const int64_t groups = static_cast<int64_t>(starts.size()) - 1, chunks = n / kGroupRows + 1;
  auto first = [&](int64_t c) {
    return c == chunks ? groups : std::lower_bound(starts.begin(), starts.end() - 1, c * kGroupRows) - starts.begin();
  };
  std::vector<GroupCount<W>> each(chunks);
  parallel_for(chunks, threads, [&](int64_t c) {
    int64_t longest = 0;
    for (int64_t g = first(c); g < first(c + 1); ++g) {
      longest = std::max(longest, starts[g + 1] - starts[g]);
    }
    Buffer<Row<K, W>> rows(longest), spare(longest);
    GroupCount<W>& sum = each[c];
    for (int64_t g = first(c); g < first(c + 1); ++g) {
      const int64_t m = starts[g + 1] - starts[g];
      load_rows<K, W>(y, p, w, order.data() + starts[g], m, false, rows.data());
      const PairCount<W> found = count_pairs<K, W, false>(rows.data(), spare.data(), m, 1);
      sum.pairs.discordant += found.discordant, sum.pairs.tied += found.tied, sum.pairs.pairs += found.pairs;
      if (!(found.pairs > 0)) {
        continue;
      }
      ++sum.groups;
      sum.concordant +=
          static_cast<double>(found.pairs - found.tied - found.discordant) / static_cast<double>(found.pairs);
      sum.tied += static_cast<double>(found.tied) / static_cast<double>(found.pairs);
    }
  });
  GroupCount<W> all;
  for (const auto& e : each) {
    all.pairs.discordant += e.pairs.discordant, all.pairs.tied += e.pairs.tied, all.pairs.pairs += e.pairs.pairs;
    all.groups += e.groups, all.concordant += e.concordant, all.tied += e.tied;
  }
  return all;
}

// (discordant, tied in the prediction, pairs of different y); reference: (concordant, tied, pairs).
py::tuple xauc_counts(const py::array& y_, const py::array& p_, const py::object& w_, bool reference, int threads) {
  const int64_t n = y_.size();
  const Column y = column("y", y_, n), p = column("prediction", p_, n);
  const bool wide = y.wide() || p.wide();
  if (w_.is_none()) {
    PairCount<false> found;
    {
      py::gil_scoped_release release;
      found = wide ? count_all<int64_t, false>(y, p, nullptr, n, reference, threads)
                   : count_all<int32_t, false>(y, p, nullptr, n, reference, threads);
    }
    return py::make_tuple(found.discordant, found.tied, found.pairs);
  }
  if (reference) {
    fail("weight", "None with ties='reference'", "an array");
  }
  const auto w = w_.cast<py::array_t<double, py::array::c_style>>();
  check_shape("weight", w, "N", n);
  const double* weight = w.data();
  PairCount<true> found;
  {
    py::gil_scoped_release release;
    found = count_all<int64_t, true>(y, p, weight, n, false, threads);
  }
  return py::make_tuple(found.discordant, found.tied, found.pairs);
}

// (discordant, tied, pairs) over all groups; then of the groups with a pair: how many, the sums of concordant / pairs
// and tied / pairs.
py::tuple xauc_groups(const py::array& y_, const py::array& p_, const py::object& w_,
                      const py::array_t<int64_t, py::array::c_style>& group, int threads) {
  const int64_t n = y_.size();
  const Column y = column("y", y_, n), p = column("prediction", p_, n);
  check_shape("group", group, "N", n);
  const int64_t* ids = group.data();
  auto tuple = [](const auto& f) {
    return py::make_tuple(f.pairs.discordant, f.pairs.tied, f.pairs.pairs, f.groups, f.concordant, f.tied);
  };
  if (w_.is_none()) {
    GroupCount<false> found;
    {
      py::gil_scoped_release release;
      found = y.wide() || p.wide() ? count_groups<int64_t, false>(y, p, nullptr, ids, n, threads)
                                   : count_groups<int32_t, false>(y, p, nullptr, ids, n, threads);
    }
    return tuple(found);
  }
  const auto w = w_.cast<py::array_t<double, py::array::c_style>>();
  check_shape("weight", w, "N", n);
  const double* weight = w.data();
  GroupCount<true> found;
  {
    py::gil_scoped_release release;
    found = count_groups<int64_t, true>(y, p, weight, ids, n, threads);
  }
  return tuple(found);
}

// Pearson's correlation of mean ranks, from exact sums of doubled ranks: n (n+1)^2 is n times the square of their mean.
template <class K>
double rank_correlation(const Column& y, const Column& p, int64_t n, int threads) {
  using R = Row<K, false>;
  __extension__ typedef __int128 Wide;
  Buffer<R> rows(n), spare(n);
  parallel_for((n + kLoad - 1) / kLoad, threads, [&](int64_t c) {
    const int64_t i = c * kLoad;
    load_rows<K, false>(from(y, i), from(p, i), nullptr, nullptr, std::min(kLoad, n - i), false, rows.data() + i);
  });
  R* r = rows.data();
  std::vector<Wide> sums(3 * ((n + kRunChunk - 1) / kRunChunk), 0);
  auto same = [r](int64_t i, int64_t j) { return r[i].p == r[j].p; };
  RowSort<R, false>::run(r, spare.data(), n, threads);
  R* ranked = spare.data();
  for_each_run(n, threads, same, [&](int64_t begin, int64_t end, int64_t c) {
    const K rank = static_cast<K>(begin + 1 + end);
    for (int64_t i = begin; i < end; ++i) {
      ranked[i] = {r[i].y, rank};
    }
    sums[3 * c] += static_cast<Wide>(rank) * rank * (end - begin);
  });
  RowSort<R, false>::run(ranked, r, n, threads);
  auto same_y = [ranked](int64_t i, int64_t j) { return ranked[i].p == ranked[j].p; };
  for_each_run(n, threads, same_y, [&](int64_t begin, int64_t end, int64_t c) {
    const Wide rank = begin + 1 + end;
    Wide of_predictions = 0;
    for (int64_t i = begin; i < end; ++i) {
      of_predictions += ranked[i].y;
    }
    sums[3 * c + 1] += rank * rank * (end - begin);
    sums[3 * c + 2] += rank * of_predictions;
  });
  Wide pp = 0, yy = 0, yp = 0;
  for (size_t i = 0; i < sums.size(); i += 3) {
    pp += sums[i], yy += sums[i + 1], yp += sums[i + 2];
  }
  const Wide mean = static_cast<Wide>(n) * (n + 1) * (n + 1);
  const long double scale = sqrtl(static_cast<long double>(pp - mean)) * sqrtl(static_cast<long double>(yy - mean));
  return scale > 0 ? static_cast<double>(static_cast<long double>(yp - mean) / scale)
                   : std::numeric_limits<double>::quiet_NaN();
}

double srcc(const py::array& y_, const py::array& p_, int threads) {
  const int64_t n = y_.size();
  const Column y = column("y", y_, n), p = column("prediction", p_, n);
  py::gil_scoped_release release;
  return y.wide() || p.wide() || n >= (1 << 29) ? rank_correlation<int64_t>(y, p, n, threads)
                                                : rank_correlation<int32_t>(y, p, n, threads);
}

}  // namespace

void bind_scores_pairs(py::module_& m) {
  using py::arg;
  m.def("xauc_counts", &xauc_counts, arg("y"), arg("prediction"), arg("weight"), arg("reference"), arg("num_threads"));
  m.def("xauc_groups", &xauc_groups, arg("y"), arg("prediction"), arg("weight"), arg("group").noconvert(),
        arg("num_threads"));
  m.def("srcc", &srcc, arg("y"), arg("prediction"), arg("num_threads"));
}

}  // namespace ordkernels::host
