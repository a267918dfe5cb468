// Rows are first put in the order of parts of the groups, chunk by chunk, so that a part's counts stay in the
// second-level cache; a row takes its bins along.
//
// A row's slot says which table of counts it goes to: its group's id, or where ids are sparse the rank of its id. The
// part of a slot is slot >> shift.
#include "host/grouped_histograms.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <utility>
#include <vector>

#include "host/buffer.h"
#include "host/group_rows.h"
#include "host/parallel.h"
#include "host/scatter.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kChunkRows = 1 << 16;      // rows per unit of work
constexpr int64_t kTableCounts = 96 * 1024;  // in a part's table: 192 KiB
constexpr int64_t kMaxParts = 1024;
constexpr int64_t kPrefetchedLines = 4;  // of the next chunk's rows

struct Layout {
  int shift;     // of a slot to its part
  int bin_bits;  // that hold a bin
  int64_t slots_per_part() const { return int64_t(1) << shift; }
};

// A row's slot within its part and its two bins, in as few bits as hold them.
template <class Word>
struct PackedRow {
  int bin_bits;
  Word pack(Word slot, Word y, Word p) const { return ((slot << bin_bits | y) << bin_bits) | p; }
  uint64_t y(Word w) const { return (w >> bin_bits) & ((Word(1) << bin_bits) - 1); }
  uint64_t p(Word w) const { return w & ((Word(1) << bin_bits) - 1); }
  uint64_t slot(Word w) const { return w >> bin_bits >> bin_bits; }
};

struct Slots {
  const int64_t* slot;  // [N]
  const int64_t* name;  // of each slot; null: the slots themselves
};

uint64_t distance(int64_t low, int64_t high) { return static_cast<uint64_t>(high) - static_cast<uint64_t>(low); }

std::pair<int64_t, int64_t> least_and_greatest(const int64_t* from, const int64_t* end) {
  constexpr int kChains = 4;  // of comparisons
  int64_t low[kChains], high[kChains];
  std::fill_n(low, kChains, *from);
  std::fill_n(high, kChains, *from);
  for (; from + kChains <= end; from += kChains) {
    for (int l = 0; l < kChains; ++l) {
      low[l] = std::min(low[l], from[l]);
      high[l] = std::max(high[l], from[l]);
    }
  }
  for (; from < end; ++from) {
    low[0] = std::min(low[0], *from);
    high[0] = std::max(high[0], *from);
  }
  return {*std::min_element(low, low + kChains), *std::max_element(high, high + kChains)};
}

// Whether few of the slots would have rows. Where it is false, distances hold in 32 bits.
bool is_sparse(int64_t least, int64_t greatest, int64_t n) {
  return distance(least, greatest) >= std::min(4 * static_cast<uint64_t>(n) + 1024, uint64_t(1) << 31);
}

bool has_too_many_parts(int64_t least, int64_t greatest, int shift) {
  return distance(least >> shift, greatest >> shift) >= kMaxParts;
}

// A chunk's rows in the order of their parts: those of part first + j from start[j] to start[j + 1].
struct Chunk {
  int64_t least = 0, greatest = 0;  // slots
  int64_t first = 0;                // part
  std::vector<uint32_t> start;
};

// All rows, in the order of parts within each chunk.
template <class Word>
struct PartitionedRows {
  explicit PartitionedRows(int64_t n) : words(n), chunks((n + kChunkRows - 1) / kChunkRows) {}
  Buffer<Word> words;  // [N]
  std::vector<Chunk> chunks;
};

enum class Partition { kDone, kHasNaN, kTooManyParts };

// Looks at chunk after chunk, counts and orders it while it is in the second-level cache.
template <class F, class Word>
class Partitioner {
 public:
  Partitioner(const HistogramRows<F>& rows, const int64_t* slot, const Bins<F>& bins, Layout layout,
              PartitionedRows<Word>& out)
      : rows_(rows), slot_(slot), bins_(bins), layout_(layout), out_(out) {}

  Partition run(int threads) {
    const int64_t chunks = static_cast<int64_t>(out_.chunks.size());
    std::atomic<int64_t> turn{0};
    parallel_for(std::min<int64_t>(threads, chunks), threads, [&](int64_t) {
      Buffer<uint32_t> slots(kChunkRows);
      for (int64_t c; (c = turn.fetch_add(1)) < chunks && !has_nan_ && !too_many_parts_;) {
        if (!order_slots(c, slots.data())) {
          too_many_parts_ = true;
        }
      }
    });
    return too_many_parts_ ? Partition::kTooManyParts : has_nan_ ? Partition::kHasNaN : Partition::kDone;
  }

 private:
  // slots [kChunkRows]: room for the rows' slots, counted from the chunk's first part. False: too many parts.
  bool order_slots(int64_t c, uint32_t* slots) {
    const int64_t from = c * kChunkRows, rows = std::min(kChunkRows, rows_.n - from);
    const int64_t* given = slot_ + from;
    const int shift = layout_.shift;
    const auto [least, greatest] = least_and_greatest(given, given + rows);
    if (has_too_many_parts(least, greatest, shift)) {
      return false;
    }
    Chunk& chunk = out_.chunks[c];
    chunk.least = least;
    chunk.greatest = greatest;
    chunk.first = least >> shift;
    const int64_t parts = (greatest >> shift) - chunk.first + 1, zero = chunk.first << shift;
    // Within bounds, whatever another thread has written since: later steps trust these copies as indices.
    const auto limit = static_cast<uint32_t>(greatest - zero);
    for (int64_t i = 0; i < rows; ++i) {
      slots[i] = std::min(static_cast<uint32_t>(given[i] - zero), limit);
    }
    uint32_t next[kMaxParts] = {}, sum = 0;
    for (int64_t i = 0; i < rows; ++i) {
      ++next[slots[i] >> shift];
    }
    chunk.start.resize(parts + 1);
    for (int64_t q = 0; q < parts; ++q) {
      chunk.start[q] = sum;
      sum += std::exchange(next[q], sum);
    }
    chunk.start[parts] = sum;
    pack_rows(from, rows, slots, next);
    return true;
  }

  // Rows `from` to from + rows; next: the next free place of each part among them.
  void pack_rows(int64_t from, int64_t rows, const uint32_t* slots, uint32_t* next) {
    constexpr int64_t kBlock = Bins<F>::kBlock;
    const int shift = layout_.shift;
    const auto within_part = static_cast<uint32_t>(layout_.slots_per_part() - 1);
    const PackedRow<Word> packed{layout_.bin_bits};
    Word* to = out_.words.data() + from;
    uint32_t y_bin[kBlock], p_bin[kBlock];
    Word word[kBlock];
    for (int64_t i = 0; i < rows; i += kBlock) {
      const int64_t m = std::min(kBlock, rows - i);
      const bool nan_in_y = bins_(rows_.y + from + i, m, y_bin), nan_in_p = bins_(rows_.p + from + i, m, p_bin);
      if (nan_in_y || nan_in_p) {
        has_nan_ = true;
      }
      const uint32_t* s = slots + i;
      for (int64_t r = 0; r < m; ++r) {
        word[r] = packed.pack(s[r] & within_part, y_bin[r], p_bin[r]);
      }
      scatter(m, to, next, [&](int64_t r) { return s[r] >> shift; }, [&](int64_t r) { return word[r]; });
    }
  }

  const HistogramRows<F>& rows_;
  const int64_t* slot_;
  const Bins<F>& bins_;
  const Layout layout_;
  PartitionedRows<Word>& out_;
  std::atomic<bool> has_nan_ = false, too_many_parts_ = false;
};

// Fills the tables of counts, part after part.
template <class Word>
class TableFiller {
 public:
  TableFiller(PartitionedRows<Word>& rows, const int64_t* name, Layout layout, int64_t M, HistogramVisitor& visitor)
      : rows_(rows), words_(rows.words.data()), name_(name), layout_(layout), M_(M), visitor_(visitor) {
    least_ = rows.chunks[0].least;
    greatest_ = rows.chunks[0].greatest;
    for (const Chunk& chunk : rows.chunks) {
      least_ = std::min(least_, chunk.least);
      greatest_ = std::max(greatest_, chunk.greatest);
    }
    first_ = least_ >> layout.shift;
  }

  // False, and nothing is visited: the slots need another layout.
  bool run(int64_t n, int threads) const {
    if (has_too_many_parts(least_, greatest_, layout_.shift) || is_sparse(least_, greatest_, n)) {
      return false;
    }
    const int64_t parts = (greatest_ >> layout_.shift) - first_ + 1;
    visitor_.set_parts(parts);
    std::atomic<int64_t> next{0};
    // A thread keeps its tables: the first touch of new memory for each part would cost more than counting in it.
    parallel_for(std::min<int64_t>(threads, parts), threads, [&](int64_t) {
      const int64_t zero = first_ << layout_.shift;
      const int64_t table = std::min(layout_.slots_per_part(), greatest_ - zero + 1) * 2 * M_;
      std::vector<uint16_t> counts16(table, 0);
      std::vector<uint32_t> counts32;
      for (int64_t q; (q = next.fetch_add(1)) < parts;) {
        int64_t rows = 0;
        for (size_t c = 0; c < rows_.chunks.size(); ++c) {
          const auto [from, end] = rows_of(c, q);
          rows += end - from;
        }
        if (rows <= std::numeric_limits<uint16_t>::max()) {
          fill(q, counts16.data());
        } else {
          counts32.resize(table);
          fill(q, counts32.data());
        }
      }
    });
    return true;
  }

 private:
  std::pair<const Word*, const Word*> rows_of(size_t c, int64_t q) const {
    const Chunk& chunk = rows_.chunks[c];
    const int64_t j = first_ + q - chunk.first, end = static_cast<int64_t>(chunk.start.size()) - 1;
    const Word* from = words_ + c * kChunkRows;
    return 0 <= j && j < end ? std::pair(from + chunk.start[j], from + chunk.start[j + 1]) : std::pair(from, from);
  }

  // counts [slots of a part, 2, M]: zeros, before and after.
  template <class Count>
  void fill(int64_t q, Count* counts) const {
    const PackedRow<Word> packed{layout_.bin_bits};
    const int64_t M = M_;
    for (size_t c = 0; c < rows_.chunks.size(); ++c) {
      const auto [from, end] = rows_of(c, q);
      if (c + 1 < rows_.chunks.size()) {
        const auto* const next = reinterpret_cast<const char*>(rows_of(c + 1, q).first);
        for (int64_t i = 0; i < kPrefetchedLines; ++i) {
          __builtin_prefetch(next + 64 * i);
        }
      }
      for (const Word* w = from; w < end; ++w) {
        Count* const of_slot = counts + packed.slot(*w) * 2 * M;
        ++of_slot[packed.y(*w)];
        ++of_slot[M + packed.p(*w)];
      }
    }
    const int64_t zero = (first_ + q) << layout_.shift,
                  slots = std::min(layout_.slots_per_part(), greatest_ - zero + 1);
    visitor_.visit(q, GroupIds{name_, zero}, slots, counts);
    std::fill_n(counts, slots * 2 * M, 0);
  }

  const PartitionedRows<Word>& rows_;
  const Word* words_;
  const int64_t* name_;
  const Layout layout_;
  const int64_t M_;
  HistogramVisitor& visitor_;
  int64_t least_, greatest_;  // slots
  int64_t first_;             // part
};

template <class Word, class F>
Partition visit_parts(const HistogramRows<F>& rows, Slots slots, const Bins<F>& bins, Layout layout, int threads,
                      HistogramVisitor& visitor) {
  PartitionedRows<Word> partitioned(rows.n);
  const Partition outcome = Partitioner<F, Word>(rows, slots.slot, bins, layout, partitioned).run(threads);
  if (outcome != Partition::kDone) {
    return outcome;
  }
  const TableFiller<Word> filler(partitioned, slots.name, layout, bins.size(), visitor);
  return filler.run(rows.n, threads) ? Partition::kDone : Partition::kTooManyParts;
}

// Groups by rank.
struct Ranks {
  std::vector<int64_t> rank;  // [N]: of each row
  std::vector<int64_t> ids;   // [G]: of the groups, rising
};

Ranks rank_groups(const int64_t* group, int64_t n) {
  const GroupedRows grouped = group_rows(group, n);
  Ranks ranks;
  ranks.rank.resize(n);
  ranks.ids.resize(grouped.groups());
  for (int64_t g = 0; g < grouped.groups(); ++g) {
    ranks.ids[g] = group[grouped.order[grouped.starts[g]]];
    for (int64_t i = grouped.starts[g]; i < grouped.starts[g + 1]; ++i) {
      ranks.rank[grouped.order[i]] = g;
    }
  }
  return ranks;
}

}  // namespace

template <class F>
HistogramOutcome for_each_histogram(const HistogramRows<F>& rows, const Bins<F>& bins, int threads,
                                    HistogramVisitor& visitor) {
  if (!rows.n) {
    return HistogramOutcome::kDone;
  }
  const int64_t M = bins.size();
  const int bin_bits = std::bit_width(static_cast<uint64_t>(M - 1));
  int shift = std::bit_width(static_cast<uint64_t>(std::max(int64_t(1), kTableCounts / (2 * M)) - 1));
  Slots slots{rows.group, nullptr};
  Ranks ranks;
  for (bool first_try = true;; first_try = false) {
    if (shift + 2 * bin_bits > 64) {
      return HistogramOutcome::kTooManyBins;
    }
    const Layout layout{shift, bin_bits};
    const Partition outcome = shift + 2 * bin_bits <= 32
                                  ? visit_parts<uint32_t>(rows, slots, bins, layout, threads, visitor)
                                  : visit_parts<uint64_t>(rows, slots, bins, layout, threads, visitor);
    if (outcome != Partition::kTooManyParts) {
      return outcome == Partition::kDone ? HistogramOutcome::kDone : HistogramOutcome::kHasNaN;
    }
    if (!first_try) {
      return HistogramOutcome::kTooManyGroups;
    }
    // Larger parts and, where most slots would be empty, ranks for ids.
    auto [least, greatest] = least_and_greatest(rows.group, rows.group + rows.n);
    if (is_sparse(least, greatest, rows.n)) {
      ranks = rank_groups(rows.group, rows.n);
      slots = {ranks.rank.data(), ranks.ids.data()};
      least = 0;
      greatest = static_cast<int64_t>(ranks.ids.size()) - 1;
    }
    while (has_too_many_parts(least, greatest, shift)) {
      ++shift;
    }
  }
}

template HistogramOutcome for_each_histogram(const HistogramRows<float>&, const Bins<float>&, int, HistogramVisitor&);
template HistogramOutcome for_each_histogram(const HistogramRows<double>&, const Bins<double>&, int, HistogramVisitor&);

}  // namespace ordkernels::host
