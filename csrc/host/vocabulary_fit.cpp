// The authors' loop, on the distinct remainders of labels with their counts in place of all labels.
#include "host/vocabulary_fit.h"

#include <algorithm>

#include "host/label_units.h"
#include "host/parallel.h"
#include "host/radix_sort.h"

namespace ordkernels::host {

namespace {

// Labels of one remainder: as many as `count`, the smallest of them labels[first].
struct Group {
  double remainder;
  uint32_t first;
  uint32_t count;
};

struct DistinctLabels {
  std::vector<double> labels;  // rising
  std::vector<Group> groups;   // one for each, its remainder the label itself

  void add(int64_t label, int64_t count) {
    const auto first = static_cast<uint32_t>(labels.size());
    groups.push_back({static_cast<double>(label), first, static_cast<uint32_t>(count)});
    labels.push_back(static_cast<double>(label));
  }
};

// Labels up to `greatest`, counted. One that another thread has raised since counts as `greatest`.
DistinctLabels count_labels(std::span<const int64_t> labels, int64_t greatest, int tables, int threads) {
  const int64_t n = static_cast<int64_t>(labels.size());
  std::vector<std::vector<uint32_t>> bins(tables);
  parallel_for(tables, threads, [&](int64_t t) {
    bins[t].assign(greatest + 1, 0);
    uint32_t* const bin = bins[t].data();
    for (int64_t i = n * t / tables, end = n * (t + 1) / tables; i < end; ++i) {
      ++bin[std::min(static_cast<uint64_t>(labels[i]), static_cast<uint64_t>(greatest))];
    }
  });
  DistinctLabels out;
  for (int64_t label = 0; label <= greatest; ++label) {
    int64_t count = 0;
    for (const auto& bin : bins) {
      count += bin[label];
    }
    if (count) {
      out.add(label, count);
    }
  }
  return out;
}

// Labels in a copy, within their range whatever another thread has written since they were checked.
DistinctLabels sort_labels(std::span<const int64_t> labels) {
  const int64_t n = static_cast<int64_t>(labels.size());
  std::vector<int64_t> sorted(n), spare;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t label = __atomic_load_n(&labels[i], __ATOMIC_RELAXED);
    sorted[i] = std::clamp<int64_t>(label, 0, kMaxLabel);
  }
  radix_sort(sorted.data(), n, spare);
  DistinctLabels out;
  for (int64_t i = 0, j; i < n; i = j) {
    for (j = i + 1; j < n && sorted[j] == sorted[i];) {
      ++j;
    }
    out.add(sorted[i], j - i);
  }
  return out;
}

// The distinct labels in rising order with their counts: a histogram where their range is short, else a sort.
DistinctLabels distinct_labels(std::span<const int64_t> labels, int threads) {
  const int64_t n = static_cast<int64_t>(labels.size());
  int64_t greatest = 0;
  for (int64_t y : labels) {
    greatest = std::max(greatest, y);
  }
  const int64_t max_bins = std::max<int64_t>(int64_t(1) << 20, 2 * n);  // of all threads together
  if (greatest >= max_bins) {
    return sort_labels(labels);
  }
  const auto tables = static_cast<int>(std::clamp<int64_t>(max_bins / (greatest + 1), 1, threads));
  return count_labels(labels, greatest, tables, threads);
}

// numpy.percentile(remainders, 100 q), to the bit: groups rise, n labels in all.
double percentile(const std::vector<Group>& groups, int64_t n, double q) {
  const double at = static_cast<double>(n - 1) * (100 * q / 100);
  const int64_t low = at >= static_cast<double>(n - 1) ? n - 1 : static_cast<int64_t>(at);
  int64_t i = static_cast<int64_t>(groups.size()), before = n;  // labels in the groups before i
  while (before > low) {
    before -= groups[--i].count;
  }
  const double a = groups[i].remainder, t = at - static_cast<double>(low);
  if (low + 1 >= n || low + 1 < before + groups[i].count) {
    return a;
  }
  const double b = groups[i + 1].remainder, gap = b - a;
  return t >= 0.5 ? b - gap * (1 - t) : a + gap * t;
}

// remainder -= value for every group that holds it: two rising runs merge, and groups of equal remainder become one.
void subtract(std::vector<Group>& groups, double value, std::vector<Group>& spare) {
  const auto below = [](const Group& g, double x) { return g.remainder < x; };
  const auto high = std::lower_bound(groups.begin(), groups.end(), value, below);
  const auto start = std::lower_bound(groups.begin(), high, high->remainder - value, below);  // what is below stays
  const int64_t unchanged = start - groups.begin(), a_size = high - start, b_size = groups.end() - high;
  spare.resize(a_size + b_size + 1);
  const Group *a = groups.data() + unchanged, *b = a + a_size, *a_end = b, *b_end = b + b_size;
  Group* to = spare.data();
  *to = {-1, 0, 0};
  const auto append = [&](Group g) {
    const bool same = g.remainder == to->remainder;
    const uint32_t first = std::min(g.first, to->first), count = g.count + to->count;
    to += !same;
    *to = {g.remainder, same ? first : g.first, same ? count : g.count};
  };
  while (a != a_end && b != b_end) {
    const double from_b = b->remainder - value;
    const bool take_b = from_b < a->remainder;
    append(take_b ? Group{from_b, b->first, b->count} : *a);
    b += take_b;
    a += !take_b;
  }
  for (; a != a_end; ++a) {
    append(*a);
  }
  for (; b != b_end; ++b) {
    append({b->remainder - value, b->first, b->count});
  }
  const int64_t merged = to - spare.data();
  std::copy(spare.data() + 1, spare.data() + 1 + merged, groups.data() + unchanged);
  groups.resize(unchanged + merged);
}

}  // namespace

std::vector<int64_t> vocabulary_fit(std::span<const int64_t> labels, const VocabularyFit& options, int threads,
                                    void (*poll)()) {
  const int64_t n = static_cast<int64_t>(labels.size());
  DistinctLabels distinct = distinct_labels(labels, threads);
  std::vector<Group>& groups = distinct.groups;
  std::vector<Group> spare;
  std::vector<int64_t> values;
  double q = options.q_start;
  while (true) {
    const double value = percentile(groups, n, q);
    if (static_cast<int64_t>(value) == 0) {
      return values;
    }
    values.push_back(static_cast<int64_t>(value));
    subtract(groups, value, spare);
    q = std::max(options.q_end, q * options.alpha);
    const auto is_above = [&](const Group& g) {
      return g.remainder / (distinct.labels[g.first] + 1e-10) > options.epsilon;
    };
    if (std::find_if(groups.rbegin(), groups.rend(), is_above) == groups.rend()) {
      return values;
    }
    if (values.size() % 64 == 0) {
      poll();
    }
  }
}

}  // namespace ordkernels::host
