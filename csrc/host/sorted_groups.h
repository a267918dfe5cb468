// Ragged groups, each sorted by the cheapest sort for its size: short groups eight or sixteen at a time by a vectorised
// network (sorting_network.h), long ones by radix (radix_sort.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "host/float_keys.h"
#include "host/parallel.h"
#include "host/radix_sort.h"
#include "host/sorting_network.h"

namespace ordkernels::host {

// A tile's longest group: 32 or 64 KiB of fp32 keys, about the first-level cache.
constexpr int64_t kLongestInTile = 1024;
// Values per unit of work: enough groups to find eight of a size.
constexpr int64_t kChunkValues = 64 * 1024;

// One thread's sorter of the groups of values [N], offsets [G+1].
template <class F>
class GroupSorter {
 public:
  using K = key_of<F>;

  GroupSorter(std::span<const F> values, const int64_t* offsets)
      : values_(values),
        offsets_(offsets),
        tile_(kMaxTileWidth * (kLongestInTile + 16)),
        next_(kLongestInTile + 2),
        width_(tile_width<K>()) {}

  // Calls read(g, n, keys, stride) with the sorted keys of every group g in [begin, end) that is not empty. Of a long
  // group only those ranks need be in place for which a function that wanted(n) makes says so (see select_ranks).
  template <class Wanted, class Read>
  void for_each_sorted(int64_t begin, int64_t end, const Wanted& wanted, const Read& read) {
    prefetch_values(begin, end);
    order_by_size(begin, end);
    const int64_t groups = static_cast<int64_t>(order_.size());
    for (int64_t i = 0; i < groups;) {
      const int64_t rows = size(order_[i]), columns = std::min<int64_t>(width_, groups - i);
      int64_t filled = 0;
      for (int64_t g = 0; g < columns; ++g) {
        filled += size(order_[i + g]);
      }
      if (rows > kLongestInTile || (rows > 32 && filled < 3 * rows)) {  // mostly padding: costs more than one sort
        read(order_[i], rows, sort_one(order_[i], rows, wanted(rows)), int64_t(1));
        ++i;
        continue;
      }
      sort_tile(order_.data() + i, columns, rows);
      for (int64_t g = 0; g < columns; ++g) {
        read(order_[i + g], sizes_[g], tile_.data() + g, width_);
      }
      i += columns;
    }
  }

 private:
  int64_t size(int64_t g) const { return offsets_[g + 1] - offsets_[g]; }

  // Groups are visited in order of size, which no hardware prefetcher follows: bring the chunk into the second-level
  // cache first.
  void prefetch_values(int64_t begin, int64_t end) const {
    const int64_t last = std::min(offsets_[end], offsets_[begin] + 2 * kChunkValues);
    for (int64_t i = offsets_[begin]; i < last; i += 64 / sizeof(F)) {
      __builtin_prefetch(values_.data() + i, 0, 2);
    }
  }

  // order_: the groups of [begin, end) that are not empty, longest first; those longer than kLongestInTile lead, in
  // their own order.
  void order_by_size(int64_t begin, int64_t end) {
    const auto slot = [&](int64_t g) { return kLongestInTile + 1 - std::min(size(g), kLongestInTile + 1); };
    std::fill(next_.begin(), next_.end(), 0);
    for (int64_t g = begin; g < end; ++g) {
      ++next_[slot(g)];
    }
    const int64_t empty = next_[kLongestInTile + 1];  // the last slot
    for (int64_t s = 0, sum = 0; s < kLongestInTile + 2; ++s) {
      sum += std::exchange(next_[s], sum);
    }
    order_.resize(end - begin - empty);
    for (int64_t g = begin; g < end; ++g) {
      if (size(g) > 0) {
        order_[next_[slot(g)]++] = g;
      }
    }
  }

  template <class WantedRange>
  const K* sort_one(int64_t g, int64_t n, WantedRange&& wanted) {
    const F* from = values_.data() + offsets_[g];
    keys_.resize(n);
    sorted_.resize(n);
    for (int64_t i = 0; i < n; ++i) {
      keys_[i] = to_key(from[i]);
    }
    select_ranks(keys_.data(), n, sorted_.data(), spare_, bins_, wanted);
    return sorted_.data();
  }

  // The groups group [columns], at most `rows` long, side by side; their sizes to sizes_.
  void sort_tile(const int64_t* group, int64_t columns, int64_t rows) {
    const F* from[kMaxTileWidth];
    for (int64_t g = 0; g < width_; ++g) {
      sizes_[g] = g < columns ? size(group[g]) : 0;
      from[g] = g < columns ? values_.data() + offsets_[group[g]] : values_.data();
    }
    load_tile(from, sizes_, rows, values_.data() + values_.size(), tile_.data());
    sort_columns(tile_.data(), rows);
  }

  const std::span<const F> values_;
  const int64_t* const offsets_;
  std::vector<K> tile_, keys_, sorted_, spare_;
  std::vector<int64_t> order_, bins_, next_;
  const int64_t width_;
  int64_t sizes_[kMaxTileWidth];  // of the groups in the tile
};

// Cuts the groups into chunks of about kChunkValues values and runs body(begin, end, sorter) on each.
template <class F, class Body>
void for_each_chunk(std::span<const F> values, std::span<const int64_t> offsets, int threads, const Body& body) {
  const int64_t groups = static_cast<int64_t>(offsets.size()) - 1, chunks = offsets[groups] / kChunkValues + 1;
  const auto first = [&](int64_t c) {
    const auto at = std::lower_bound(offsets.begin(), offsets.begin() + groups, c * kChunkValues);
    return c == chunks ? groups : at - offsets.begin();
  };
  parallel_for(chunks, threads, [&](int64_t c) {
    GroupSorter<F> sorter(values, offsets.data());
    body(first(c), first(c + 1), sorter);
  });
}

}  // namespace ordkernels::host
