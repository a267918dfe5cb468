// Quantiles of ragged groups: each group sorted by the cheapest sort for its size, then read at the levels' positions.
// Short groups are sorted eight or sixteen at a time by a vectorised network (lane_sort.h), long ones by radix
// (radix.h).
#include "host/quantiles.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "host/checks.h"
#include "host/parallel.h"
#include "host/quantiles_history.h"
#include "host/radix.h"

namespace ordkernels::host {

namespace {

namespace py = pybind11;

constexpr int64_t kLongest = 1024;  // the longest group a tile takes: 32 or 64 KiB of fp32 keys, about the first cache
constexpr int64_t kChunk = 64 * 1024;  // values per unit of work: enough groups to find eight of a size

// One thread's buffers.
template <class F>
struct Workspace {
  std::vector<key_of<F>> tile = std::vector<key_of<F>>(kMostWide * (kLongest + 16)), keys, sorted, spare;
  std::vector<int64_t> order, bins, start = std::vector<int64_t>(kLongest + 2);
};

// The groups of [begin, end) that are not empty, longest first; those longer than kLongest lead, in their own order.
template <class F>
void order_by_size(const int64_t* offsets, int64_t begin, int64_t end, Workspace<F>& w) {
  auto slot = [&](int64_t g) { return kLongest + 1 - std::min(offsets[g + 1] - offsets[g], kLongest + 1); };
  std::fill(w.start.begin(), w.start.end(), 0);
  for (int64_t g = begin; g < end; ++g) {
    ++w.start[slot(g)];
  }
  const int64_t empty = w.start[kLongest + 1];  // the last slot
  for (int64_t s = 0, sum = 0; s < kLongest + 2; ++s) {
    sum += std::exchange(w.start[s], sum);
  }
  w.order.resize(end - begin - empty);
  for (int64_t g = begin; g < end; ++g) {
    if (offsets[g] < offsets[g + 1]) {
      w.order[w.start[slot(g)]++] = g;
    }
  }
}

// Calls read(g, n, keys, stride) with the sorted keys of every group of values [all] in [begin, end) that is not empty.
// Of a long group only those ranks need be in place for which a function wanted(n) makes says so (radix.h,
// select_ranks).
template <class F, class Wanted, class Read>
void for_each_sorted(const F* values, int64_t all, const int64_t* offsets, int64_t begin, int64_t end, Workspace<F>& w,
                     const Wanted& wanted, const Read& read) {
  // Groups come in order of size, which no hardware prefetcher follows: bring the chunk into the second cache first.
  for (int64_t i = offsets[begin]; i < std::min(offsets[end], offsets[begin] + 2 * kChunk); i += 64 / sizeof(F)) {
    __builtin_prefetch(values + i, 0, 2);
  }
  order_by_size(offsets, begin, end, w);
  const int64_t groups = w.order.size(), wide = tile_width<key_of<F>>();
  auto size = [&](int64_t i) { return offsets[w.order[i] + 1] - offsets[w.order[i]]; };
  for (int64_t i = 0; i < groups;) {
    const int64_t rows = size(i), lanes = std::min(wide, groups - i);
    int64_t filled = 0;
    for (int64_t g = 0; g < lanes; ++g) {
      filled += size(i + g);
    }
    if (rows > kLongest || (rows > 32 && filled < 3 * rows)) {  // a tile of mostly padding costs more than one sort
      const F* from = values + offsets[w.order[i]];
      w.keys.resize(rows);
      w.sorted.resize(rows);
      for (int64_t j = 0; j < rows; ++j) {
        w.keys[j] = to_key(from[j]);
      }
      select_ranks(w.keys.data(), rows, w.sorted.data(), w.spare, w.bins, wanted(rows));
      read(w.order[i], rows, w.sorted.data(), int64_t(1));
      ++i;
      continue;
    }
    const F* from[kMostWide];
    int64_t sizes[kMostWide];
    for (int64_t g = 0; g < wide; ++g) {
      sizes[g] = g < lanes ? size(i + g) : 0;
      from[g] = g < lanes ? values + offsets[w.order[i + g]] : values;
    }
    load_tile(from, sizes, rows, values + all, w.tile.data());
    sort_columns(w.tile.data(), rows);
    for (int64_t g = 0; g < lanes; ++g) {
      read(w.order[i + g], sizes[g], w.tile.data() + g, wide);
    }
    i += lanes;
  }
}

// Cuts the groups into chunks of about kChunk values and runs body(begin, end, workspace) on each.
template <class F, class Body>
void for_each_chunk(const int64_t* offsets, int64_t groups, int threads, const Body& body) {
  const int64_t chunks = offsets[groups] / kChunk + 1;
  auto first = [&](int64_t c) {
    return c == chunks ? groups : std::lower_bound(offsets, offsets + groups, c * kChunk) - offsets;
  };
  parallel_for(chunks, threads, [&](int64_t c) {
    Workspace<F> w;
    body(first(c), first(c + 1), w);
  });
}

template <class F>
void segment_quantiles(const F* values, const int64_t* offsets, int64_t groups, const double* levels, int64_t count,
                       int threads, F* out) {
  for_each_chunk<F>(offsets, groups, threads, [&](int64_t begin, int64_t end, Workspace<F>& w) {
    Positions at(levels, count);
    const F* const last = out + end * count;  // groups come in order of size, so their rows are written here and there
    for (const F* to = out + begin * count; to < last; to += 64 / sizeof(F)) {
      __builtin_prefetch(to, 1, 2);
    }
    for (int64_t g = begin; g < end; ++g) {
      if (offsets[g] == offsets[g + 1]) {
        std::fill_n(out + g * count, count, std::numeric_limits<F>::quiet_NaN());
      }
    }
    auto wanted = [&](int64_t n) {
      at.set(n);
      return [&at, l = int64_t(0)](int64_t from, int64_t to) mutable {
        while (l < at.count && at.hi[at.rising[l]] < from) {
          ++l;
        }
        return l < at.count && at.lo[at.rising[l]] < to;
      };
    };
    LevelReader<F> reader(levels, count);
    auto read = [&](int64_t g, int64_t n, const key_of<F>* keys, int64_t stride) {
      reader.read(keys, stride, n, out + g * count);
    };
    for_each_sorted(values, offsets[groups], offsets, begin, end, w, wanted, read);
    reader.finish();
  });
}

// Each value's quantiles of its group without it. The rest of a group is the sorted group less rank r, so a level reads
// one of three values: both neighbours above r, both below, or one each side. Those rows are made once for each group.
template <class F>
void leave_one_out_quantiles(const F* values, const int64_t* offsets, int64_t groups, const double* levels,
                             int64_t count, int threads, F* out) {
  using K = key_of<F>;
  for_each_chunk<F>(offsets, groups, threads, [&](int64_t begin, int64_t end, Workspace<F>& w) {
    Positions at(levels, count);
    LevelReader<F> reader(levels, count);
    std::vector<F> rows(3 * count);
    F *above = rows.data(), *across = above + count, *below = across + count;
    std::vector<K> sorted;
    auto all = [](int64_t) { return [](int64_t, int64_t) { return true; }; };
    for_each_sorted(
        values, offsets[groups], offsets, begin, end, w, all, [&](int64_t g, int64_t n, const K* keys, int64_t stride) {
          const F* group = values + offsets[g];
          F* to = out + offsets[g] * count;
          if (n == 1) {
            std::fill_n(to, count, std::numeric_limits<F>::quiet_NaN());
            return;
          }
          at.set(n - 1);
          reader.read(keys, stride, n - 1, below);           // r > hi
          reader.read(keys + stride, stride, n - 1, above);  // r <= lo
          reader.finish();
          for (int64_t l = 0; l < count; ++l) {
            const double a = from_key<F>(keys[at.lo[l] * stride]), b = from_key<F>(keys[(at.hi[l] + 1) * stride]);
            across[l] = static_cast<F>(interpolate(a, b, at.t[l]));
          }
          sorted.resize(n);
          for (int64_t i = 0; i < n; ++i) {
            sorted[i] = keys[i * stride];
          }
          for (int64_t i = 0; i < n; ++i, to += count) {
            const int64_t r = lower_bound(sorted.data(), n, to_key(group[i]));
            for (int64_t l = 0; l < count; ++l) {
              to[l] = r <= at.lo[l] ? above[l] : r <= at.hi[l] ? across[l] : below[l];
            }
          }
        });
  });
}

template <class F>
using array = py::array_t<F, py::array::c_style>;

template <class F>
array<F> segment_quantiles_py(const array<F>& values, const array<int64_t>& offsets, const array<double>& levels,
                              int threads) {
  check_groups(offsets, values.size());
  check_levels(levels);
  const int64_t groups = offsets.size() - 1, count = levels.size();
  array<F> out({groups, count});
  F* to = out.mutable_data();
  py::gil_scoped_release release;
  segment_quantiles(values.data(), offsets.data(), groups, levels.data(), count, threads, to);
  return out;
}

template <class F>
array<F> leave_one_out_quantiles_py(const array<F>& values, const array<int64_t>& offsets, const array<double>& levels,
                                    int threads) {
  check_groups(offsets, values.size());
  check_levels(levels);
  const int64_t count = levels.size();
  array<F> out({static_cast<int64_t>(values.size()), count});
  F* to = out.mutable_data();
  py::gil_scoped_release release;
  leave_one_out_quantiles(values.data(), offsets.data(), offsets.size() - 1, levels.data(), count, threads, to);
  return out;
}

template <class F, class T>
array<F> history_quantiles_py(const array<F>& values, const array<int64_t>& group, const array<T>& time,
                              const array<double>& levels, int64_t min_events, int threads) {
  const int64_t n = values.size(), count = levels.size();
  check_shape("group", group, "N", n);
  check_shape("time", time, "N", n);
  check_levels(levels);
  array<F> out({n, count});
  F* to = out.mutable_data();
  py::gil_scoped_release release;
  history_quantiles(values.data(), group.data(), time.data(), n, levels.data(), count, min_events, threads, to);
  return out;
}

template <class F>
void bind(py::module_& m) {
  using py::arg;
  const auto values = [] { return arg("values").noconvert(); };
  const auto offsets = [] { return arg("offsets").noconvert(); };
  m.def("segment_quantiles", &segment_quantiles_py<F>, values(), offsets(), arg("levels"), arg("num_threads"));
  m.def("leave_one_out_quantiles", &leave_one_out_quantiles_py<F>, values(), offsets(), arg("levels"),
        arg("num_threads"));
  m.def("history_quantiles", &history_quantiles_py<F, int64_t>, values(), arg("group").noconvert(),
        arg("time").noconvert(), arg("levels"), arg("min_events"), arg("num_threads"));
  m.def("history_quantiles", &history_quantiles_py<F, double>, values(), arg("group").noconvert(),
        arg("time").noconvert(), arg("levels"), arg("min_events"), arg("num_threads"));
}

}  // namespace

void bind_quantiles(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace ordkernels::host
