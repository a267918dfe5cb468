// The vocabulary of values: the dynamic-quantile construction, and greedy encoding. On plain arrays, without Python.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "host/parallel.h"
#include "host/radix.h"

namespace ordkernels::host::vocabulary {

// ---- construction

// Labels of one residual: as many as `count`, the smallest of them labels[first].
struct Group {
  double rest;
  uint32_t first;
  uint32_t count;
};

struct Distinct {
  std::vector<double> labels;  // rising
  std::vector<Group> groups;
};

inline void add_label(Distinct& to, int64_t label, int64_t count) {
  to.groups.push_back(
      {static_cast<double>(label), static_cast<uint32_t>(to.labels.size()), static_cast<uint32_t>(count)});
  to.labels.push_back(static_cast<double>(label));
}

// The distinct labels (0 and more; n < 2^32) in rising order with their counts: a histogram where their range is short,
// else a sort.
inline Distinct distinct(const int64_t* y, int64_t n, int threads) {
  Distinct out;
  int64_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    top = std::max(top, y[i]);
  }
  const int64_t most = std::max<int64_t>(int64_t(1) << 20, 2 * n);  // bins, of all threads together
  if (top < most) {
    const int64_t range = top + 1;
    const int parts = static_cast<int>(std::clamp<int64_t>(most / range, 1, threads));
    std::vector<std::vector<uint32_t>> bins(parts);
    parallel_for(parts, threads, [&](int64_t p) {
      bins[p].assign(range, 0);
      for (int64_t i = n * p / parts, end = n * (p + 1) / parts; i < end; ++i) {
        ++bins[p][y[i]];
      }
    });
    for (int64_t v = 0; v < range; ++v) {
      int64_t count = 0;
      for (const auto& b : bins) {
        count += b[v];
      }
      if (count) {
        add_label(out, v, count);
      }
    }
    return out;
  }
  std::vector<int64_t> sorted(y, y + n), spare;
  radix_sort(sorted.data(), n, spare);
  for (int64_t i = 0, j; i < n; i = j) {
    for (j = i + 1; j < n && sorted[j] == sorted[i];) {
      ++j;
    }
    add_label(out, sorted[i], j - i);
  }
  return out;
}

// numpy.percentile(residuals, 100 q), to the bit: groups rise, n labels in all.
inline double percentile(const std::vector<Group>& groups, int64_t n, double q) {
  const double at = static_cast<double>(n - 1) * (100 * q / 100);
  const int64_t low = at >= static_cast<double>(n - 1) ? n - 1 : static_cast<int64_t>(at);
  int64_t i = static_cast<int64_t>(groups.size()), before = n;  // labels in the groups before i
  while (before > low) {
    before -= groups[--i].count;
  }
  const double a = groups[i].rest, t = at - static_cast<double>(low);
  if (low + 1 >= n || low + 1 < before + groups[i].count) {
    return a;
  }
  const double b = groups[i + 1].rest, gap = b - a;
  return t >= 0.5 ? b - gap * (1 - t) : a + gap * t;
}

// rest -= o for every group with rest >= o: the two rising runs merge, and groups of equal rest become one.
inline void subtract(std::vector<Group>& groups, double o, std::vector<Group>& spare) {
  const auto below = [](const Group& g, double x) { return g.rest < x; };
  auto high = std::lower_bound(groups.begin(), groups.end(), o, below);
  const auto start =
      std::lower_bound(groups.begin(), high, high->rest - o, below);  // what lies under it stays where it is
  const int64_t kept = start - groups.begin(), a_size = high - start, b_size = groups.end() - high;
  spare.resize(a_size + b_size + 1);
  const Group *a = groups.data() + kept, *b = a + a_size, *a_end = b, *b_end = b + b_size;
  Group* to = spare.data();
  *to = {-1, 0, 0};
  const auto put = [&](Group g) {
    const bool same = g.rest == to->rest;
    const uint32_t first = std::min(g.first, to->first), count = g.count + to->count;
    to += !same;
    *to = {g.rest, same ? first : g.first, same ? count : g.count};
  };
  while (a != a_end && b != b_end) {
    const double from_b = b->rest - o;
    const bool take = from_b < a->rest;
    put(take ? Group{from_b, b->first, b->count} : *a);
    b += take;
    a += !take;
  }
  for (; a != a_end; ++a) {
    put(*a);
  }
  for (; b != b_end; ++b) {
    put({b->rest - o, b->first, b->count});
  }
  const int64_t made = to - spare.data();
  std::copy(spare.data() + 1, spare.data() + 1 + made, groups.data() + kept);
  groups.resize(kept + made);
}

// The authors' loop. `idle` is called now and then, and may throw to end it.
inline std::vector<int64_t> fit(const int64_t* y, int64_t n, double q, double q_end, double alpha, double epsilon,
                                int threads, const std::function<void()>& idle) {
  Distinct d = distinct(y, n, threads);
  std::vector<Group> spare;
  std::vector<int64_t> tokens;
  while (true) {
    const double o = percentile(d.groups, n, q);
    if (static_cast<int64_t>(o) == 0) {
      return tokens;
    }
    tokens.push_back(static_cast<int64_t>(o));
    subtract(d.groups, o, spare);
    q = std::max(q_end, q * alpha);
    const auto over = [&](const Group& g) { return g.rest / (d.labels[g.first] + 1e-10) > epsilon; };
    if (std::find_if(d.groups.rbegin(), d.groups.rend(), over) == d.groups.rend()) {
      return tokens;
    }
    if (tokens.size() % 64 == 0) {
      idle();
    }
  }
}

// ---- encoding

// Values, falling and at least 1; finds the largest that is not above a rest.
class Finder {
 public:
  Finder(const int64_t* values, int64_t count) : values_(values, values + count) {
    values_.push_back(0);  // below every rest: nothing found
    for (bits_ = 3; bits_ < 7; ++bits_) {
      build();
      if (steps_ <= 1) {
        break;
      }
    }
    if (steps_ > 1) {
      build();
    }
  }
  int64_t size() const { return static_cast<int64_t>(values_.size()) - 1; }
  int64_t value(int64_t i) const { return values_[i]; }

  // rest >= 1; size() where every value is larger.
  int64_t operator()(int64_t rest) const {
    int64_t i = start_[bucket(rest)];
    if (steps_ <= 1) {
      return i + (values_[i] > rest);
    }
    while (values_[i] > rest) {
      ++i;
    }
    return i;
  }

 private:
  // The length of a number and the bits behind its leading one.
  int64_t bucket(int64_t rest) const {
    const int width = std::bit_width(static_cast<uint64_t>(rest));
    return (int64_t(width) << bits_) +
           static_cast<int64_t>((static_cast<uint64_t>(rest) << (64 - width) << 1) >> (64 - bits_));
  }
  void build() {
    const int64_t buckets = int64_t(65) << bits_, n = size();
    start_.assign(buckets, 0);
    std::vector<int32_t> inside(buckets, 0);
    for (int64_t i = 0; i < n; ++i) {
      ++inside[bucket(values_[i])];
    }
    steps_ = 0;
    int32_t above = 0;  // values in higher buckets
    for (int64_t b = buckets - 1; b >= 0; --b) {
      start_[b] = above;
      above += inside[b];
      steps_ = std::max(steps_, inside[b]);
    }
  }
  std::vector<int64_t> values_;
  std::vector<int32_t> start_;
  int bits_ = 0;
  int32_t steps_ = 0;
};

inline int64_t allowed_rest(int64_t y, double tolerance) {
  return static_cast<int64_t>(tolerance * static_cast<double>(y));
}

// How often value v is taken until less than v, or no more than `allowed`, is left.
inline int64_t repeats(int64_t rest, int64_t v, int64_t allowed) {
  return std::min(rest / v, (rest - allowed + v - 1) / v);
}

// Tokens that are still to come; what is left after them goes to `rest`. -1 if no value fits and too much is left.
template <class Use>
int64_t walk(const Finder& find, int64_t& rest, int64_t allowed, const Use& use) {
  int64_t length = 0;
  while (rest > allowed) {
    const int64_t i = find(rest);
    if (i == find.size()) {
      return -1;
    }
    const int64_t k = repeats(rest, find.value(i), allowed);
    use(i, k);
    rest -= k * find.value(i);
    length += k;
  }
  return length;
}

constexpr int64_t kChunk = 1 << 14;  // labels a unit of work
constexpr int kFirst = 3, kEos = 2;

// A label's tokens go to row [T]; its length is returned, or what it would need, T and more, or -1 (see walk). What is
// left goes to `rest`.
template <class I>
int64_t write_row(int64_t y, const Finder& find, double tolerance, int64_t T, I* row, int64_t& rest) {
  std::memset(row, 0, T * sizeof(I));
  const int64_t allowed = allowed_rest(y, tolerance);
  int64_t t = 0;
  rest = y;
  while (rest > allowed && t < T - 1) {
    const int64_t k = find(rest);
    if (k == find.size()) {
      return -1;
    }
    row[t++] = static_cast<I>(k + kFirst);
    rest -= find.value(k);
  }
  if (rest > allowed) {
    const int64_t more = walk(find, rest, allowed, [](int64_t, int64_t) {});
    return more < 0 ? -1 : std::min<int64_t>(t + more, INT32_MAX);
  }
  row[t] = kEos;
  return t;
}

// The sequences of all labels below size(): where most labels are small, most rows are copies of these.
class Prefixes {
 public:
  static constexpr int64_t kTokens = 14;
  struct alignas(32) Row {
    uint16_t rest, length;  // kNone: longer than kTokens holds, EOS included
    int16_t tokens[kTokens];
  };
  static constexpr uint16_t kNone = 0xFFFF;

  Prefixes(const int64_t* y, int64_t n, const Finder& find, double tolerance, int64_t T) {
    const int64_t most = std::min<int64_t>(int64_t(1) << 16, n / 8);
    if (most < 256 || T < kTokens) {
      return;
    }
    int64_t small = 0;
    for (int64_t i = 0; i < 256; ++i) {
      small += y[i * (n / 256)] < most;
    }
    if (small < 128) {
      return;
    }
    rows_.resize(most);
    for (int64_t v = 0; v < most; ++v) {
      int64_t rest;
      const int64_t length = write_row(v, find, tolerance, kTokens, rows_[v].tokens, rest);
      rows_[v].length = length >= 0 && length < kTokens ? static_cast<uint16_t>(length) : kNone;
      rows_[v].rest = static_cast<uint16_t>(rest);
    }
  }
  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  const Row* data() const { return rows_.data(); }

  // to [T], T >= kTokens
  static void copy(const Row& from, int16_t* to, int64_t T) {
    constexpr int64_t kBytes = kTokens * sizeof(int16_t);
    const char zero[16] = {};
    char* bytes = reinterpret_cast<char*>(to);
    const char* tokens = reinterpret_cast<const char*>(from.tokens);
    for (int64_t b = kBytes; b < T * 2 - 16; b += 16) {
      std::memcpy(bytes + b, zero, 16);
    }
    std::memcpy(bytes + T * 2 - 16, zero, 16);
    std::memcpy(bytes, tokens, 16);
    std::memcpy(bytes + kBytes - 16, tokens + kBytes - 16, 16);
  }

 private:
  std::vector<Row> rows_;
};

// The rows of y[at[0, kSide)] side by side, which hides the time that one label's look-ups wait for each other. False
// as encode.
constexpr int kSide = 8;
template <class I>
bool write_rows(const int64_t* y, const int32_t* at, const Finder& find, double tolerance, int64_t T, I* tokens,
                int32_t* lengths, int64_t* residual) {
  int64_t rest[kSide], allowed[kSide], length[kSide];
  I* row[kSide];
  for (int l = 0; l < kSide; ++l) {
    rest[l] = y[at[l]];
    allowed[l] = allowed_rest(rest[l], tolerance);
    length[l] = 0;
    row[l] = tokens + at[l] * T;
  }
  bool any = true;
  int64_t t = 0;
  for (; any && t < T - 1; ++t) {
    any = false;
    for (int l = 0; l < kSide; ++l) {
      const bool live = rest[l] > allowed[l];
      const int64_t k = find(std::max<int64_t>(rest[l], 1));
      row[l][t] = live ? static_cast<I>(k + kFirst) : I(0);
      rest[l] -= live ? find.value(k) : 0;
      length[l] += live;
      any |= live;
    }
  }
  bool fits = true;
  for (int l = 0; l < kSide; ++l) {
    if (rest[l] <= allowed[l]) {
      std::memset(row[l] + t, 0, (T - t) * sizeof(I));
      row[l][length[l]] = kEos;
    } else {
      fits = false;
      length[l] = write_row(y[at[l]], find, tolerance, T, row[l], rest[l]);
    }
    lengths[at[l]] = static_cast<int32_t>(length[l]);
    residual[at[l]] = rest[l];
  }
  return fits;
}

// tokens [n, T], lengths and residual [n]. False if one did not fit: its length is then what it needs, or -1 (see
// walk).
template <class I>
bool encode(const int64_t* y, int64_t n, const Finder& find, double tolerance, int64_t T, I* tokens, int32_t* lengths,
            int64_t* residual, int threads) {
  const Prefixes known(y, sizeof(I) == 2 ? n : 0, find, tolerance, T);
  std::atomic<bool> fits{true};
  parallel_for((n + kChunk - 1) / kChunk, threads, [&](int64_t c) {
    const int64_t begin = c * kChunk, size = std::min(n - begin, kChunk), most = known.size();
    const int64_t* label = y + begin;
    std::vector<int32_t> open(size + kSide);  // labels with no row to copy
    int64_t count = 0;
    for (int64_t i = 0; i < size; ++i) {
      bool there = label[i] < most;
      if constexpr (sizeof(I) == 2) {
        if (most) {
          constexpr int64_t kAhead = 24;  // rows lie anywhere in a table larger than the second cache
          if (const int64_t next = label[std::min(i + kAhead, size - 1)]; next < most) {
            __builtin_prefetch(known.data() + next);
          }
          const auto& row = known.data()[there ? label[i] : 0];
          Prefixes::copy(row, tokens + (begin + i) * T, T);
          lengths[begin + i] = row.length;
          residual[begin + i] = row.rest;
          there &= row.length != Prefixes::kNone;
        }
      }
      open[count] = static_cast<int32_t>(i);
      count += !there;
    }
    if (!count) {
      return;
    }
    for (int64_t i = count; i % kSide; ++i) {
      open[i] = open[count - 1];
    }
    bool all = true;
    for (int64_t i = 0; i < count; i += kSide) {
      all &= write_rows(label, &open[i], find, tolerance, T, tokens + begin * T, lengths + begin, residual + begin);
    }
    if (!all) {
      fits = false;
    }
  });
  return fits;
}

// How often each value is used, lengths and residual [n] as above, for sequences of any length.
inline std::vector<int64_t> usage(const int64_t* y, int64_t n, const Finder& find, double tolerance, int64_t* lengths,
                                  int64_t* residual, int threads) {
  std::vector<int64_t> total(find.size(), 0);
  std::mutex lock;
  parallel_for((n + kChunk - 1) / kChunk, threads, [&](int64_t c) {
    std::vector<int64_t> mine(find.size(), 0);
    for (int64_t i = c * kChunk, end = std::min(n, (c + 1) * kChunk); i < end; ++i) {
      residual[i] = y[i];
      lengths[i] = walk(find, residual[i], allowed_rest(y[i], tolerance), [&](int64_t v, int64_t k) { mine[v] += k; });
    }
    std::lock_guard<std::mutex> hold(lock);
    for (int64_t v = 0; v < find.size(); ++v) {
      total[v] += mine[v];
    }
  });
  return total;
}

}  // namespace ordkernels::host::vocabulary
