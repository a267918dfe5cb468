// Quantiles of every event's past: the events of its group at strictly earlier times.
//
// Events are brought into order of (group, time). A short group is then replayed forwards, each event inserted into a
// sorted array. A long one is sorted once and replayed backwards: events leave a linked list of the sorted values, and
// a cursor per level follows, at most a step or two for each event. Both cost O(L) per event beside the sorting.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "host/parallel.h"
#include "host/quantiles.h"
#include "host/radix.h"
#include "host/scatter.h"

namespace ordkernels::host {

constexpr int64_t kInsertLongest = 2048;      // beyond, moving the tail of the array costs more than the cursors
constexpr int64_t kHistoryChunk = 16 * 1024;  // events per unit of work

struct Event {
  int64_t key, index;  // what to sort by; the event's place in the input
};

inline int64_t time_key(int64_t t) { return t; }
inline int64_t time_key(double t) { return to_key(t + 0.0); }  // -0.0 is 0.0

// order [n]: the events, group after group; starts [G+1]: where each group begins.
inline void group_events(const int64_t* group, int64_t n, std::vector<int64_t>& order, std::vector<int64_t>& starts) {
  order.resize(n);
  if (n == 0) {
    starts.assign(1, 0);
    return;
  }
  const auto [low, high] = std::minmax_element(group, group + n);
  const int64_t least = *low;
  const uint64_t range = static_cast<uint64_t>(*high) - static_cast<uint64_t>(least);
  if (range < static_cast<uint64_t>(n) + 1024) {  // ids dense enough to count
    std::vector<int64_t> next(range + 1, 0);
    for (int64_t i = 0; i < n; ++i) {
      ++next[group[i] - least];
    }
    starts.clear();
    int64_t sum = 0;
    for (auto& c : next) {
      if (c) {
        starts.push_back(sum);
      }
      sum += std::exchange(c, sum);
    }
    starts.push_back(n);
    scatter(n, order.data(), next.data(), [&](int64_t i) { return group[i] - least; }, [](int64_t i) { return i; });
    return;
  }
  std::vector<Event> events(n), spare;
  for (int64_t i = 0; i < n; ++i) {
    events[i] = {group[i], i};
  }
  radix_sort(events.data(), n, spare);
  starts.clear();
  for (int64_t i = 0; i < n; ++i) {
    order[i] = events[i].index;
    if (i == 0 || events[i].key != events[i - 1].key) {
      starts.push_back(i);
    }
  }
  starts.push_back(n);
}

template <class F>
class History {
 public:
  using K = key_of<F>;

  History(const F* values, const double* levels, int64_t count, int64_t min_events, F* out)
      : values_(values),
        out_(out),
        count_(count),
        min_events_(min_events),
        at_(levels, count),
        reader_(levels, count) {}

  // The rows of one group's events.
  template <class T>
  void run(const int64_t* order, int64_t n, const T* time) {
    events_.resize(n);
    bool sorted = true;
    for (int64_t i = 0; i < n; ++i) {
      events_[i] = {time_key(time[order[i]]), order[i]};
      sorted &= i == 0 || events_[i - 1].key <= events_[i].key;
    }
    if (!sorted) {
      radix_sort(events_.data(), n, spare_);
    }
    incoming_.resize(n);  // gathered apart from the replay, so that cache misses overlap
    for (int64_t i = 0; i < n; ++i) {
      incoming_[i] = to_key(values_[events_[i].index]);
    }
    for (int64_t i = 0; i < std::min(n, kInsertLongest);
         ++i) {  // rows lie anywhere: they come while others are computed
      for (int64_t l = 0; l < count_; l += 64 / sizeof(F)) {
        __builtin_prefetch(row(i) + l, 1, 2);
      }
    }
    if (n <= kInsertLongest) {
      forwards(n);
    } else {
      backwards(n);
    }
  }

 private:
  int64_t tie_end(int64_t i, int64_t n) const {
    int64_t j = i + 1;
    while (j < n && events_[j].key == events_[i].key) {
      ++j;
    }
    return j;
  }

  F* row(int64_t i) const { return out_ + events_[i].index * count_; }

  // Copies the row of event i to the events (i, j) of the same time; without a past of min_events it is NaN.
  void finish(int64_t i, int64_t j) const {
    if (i < min_events_ || i == 0) {
      std::fill_n(row(i), count_, std::numeric_limits<F>::quiet_NaN());
    }
    for (int64_t k = i + 1; k < j; ++k) {
      std::copy_n(row(i), count_, row(k));
    }
  }

  void forwards(int64_t n) {
    past_.resize(n);
    for (int64_t i = 0, j; i < n; i = j) {
      j = tie_end(i, n);
      if (i >= min_events_ && i > 0) {
        reader_.read(past_.data(), 1, i, row(i));
        if (j - i > 1) {
          reader_.finish();
        }
      }
      finish(i, j);
      for (int64_t k = i; k < j; ++k) {
        const int64_t place = lower_bound(past_.data(), k, incoming_[k]);
        std::copy_backward(past_.begin() + place, past_.begin() + k, past_.begin() + k + 1);
        past_[place] = incoming_[k];
      }
    }
    reader_.finish();
  }

  // Nodes 1..n are the group's values in order, 0 and n+1 the ends of the list.
  struct Node {
    int64_t step[3];  // the node before, itself, the node after
  };
  struct Value {
    K key;
    int64_t place;  // in time
  };
  struct Cursor {
    int64_t node, rank;
  };

  void backwards(int64_t n) {
    nodes_.resize(n + 2);
    node_of_.resize(n);
    sorted_.resize(n);
    keys_.resize(n + 2);
    for (int64_t i = 0; i < n; ++i) {
      sorted_[i] = {incoming_[i], i};
    }
    radix_sort(sorted_.data(), n, spare_values_);
    for (int64_t k = 0; k <= n + 1; ++k) {
      nodes_[k] = {{k - 1, k, k + 1}};
    }
    for (int64_t k = 0; k < n; ++k) {
      node_of_[sorted_[k].place] = k + 1;
      keys_[k + 1] = sorted_[k].key;
    }
    at_.set(n);
    cursors_.clear();
    for (int64_t l = 0; l < count_; ++l) {
      cursors_.push_back({at_.lo[l] + 1, at_.lo[l]});
    }
    for (int64_t j = n; j > 0;) {
      int64_t i = j - 1;
      while (i > 0 && events_[i - 1].key == events_[i].key) {
        --i;
      }
      for (int64_t k = i; k < j; ++k) {
        remove(node_of_[k]);
      }
      if (i >= min_events_ && i > 0) {
        at_.set(i);
        follow();
        F* to = row(i);
        for (int64_t l = 0; l < count_; ++l) {
          const int64_t a = cursors_[l].node, b = nodes_[a].step[1 + (at_.hi[l] - at_.lo[l])];
          to[l] = static_cast<F>(interpolate(from_key<F>(keys_[a]), from_key<F>(keys_[b]), at_.t[l]));
        }
      }
      finish(i, j);
      j = i;
    }
  }

  // Takes node x out of the list. A cursor on it moves to the node after, or at the list's end to the node before.
  void remove(int64_t x) {
    const int64_t before = nodes_[x].step[0], after = nodes_[x].step[2];
    nodes_[before].step[2] = after;
    nodes_[after].step[0] = before;
    const bool last = after == static_cast<int64_t>(nodes_.size()) - 1;
    for (auto& c : cursors_) {
      const bool here = c.node == x;
      c.rank -= (x < c.node) | (here & last);
      c.node = here ? (last ? before : after) : c.node;
    }
  }

  // Brings each cursor to its level's rank. The first step is free of branches: one event asks for one step at most.
  void follow() {
    for (int64_t l = 0; l < count_; ++l) {
      Cursor& c = cursors_[l];
      const int64_t way = (at_.lo[l] > c.rank) - (at_.lo[l] < c.rank);
      c.node = nodes_[c.node].step[1 + way];
      c.rank += way;
      while (c.rank < at_.lo[l]) {
        c.node = nodes_[c.node].step[2], ++c.rank;
      }
      while (c.rank > at_.lo[l]) {
        c.node = nodes_[c.node].step[0], --c.rank;
      }
    }
  }

  const F* values_;
  F* out_;
  const int64_t count_, min_events_;
  Positions at_;
  LevelReader<F> reader_;
  std::vector<Event> events_, spare_;
  std::vector<K> incoming_, past_, keys_;
  std::vector<Node> nodes_;
  std::vector<int64_t> node_of_;
  std::vector<Value> sorted_, spare_values_;
  std::vector<Cursor> cursors_;
};

template <class F, class T>
void history_quantiles(const F* values, const int64_t* group, const T* time, int64_t n, const double* levels,
                       int64_t count, int64_t min_events, int threads, F* out) {
  std::vector<int64_t> order, starts;
  group_events(group, n, order, starts);
  const int64_t groups = static_cast<int64_t>(starts.size()) - 1, chunks = n / kHistoryChunk + 1;
  auto first = [&](int64_t c) {
    return c == chunks ? groups
                       : std::lower_bound(starts.begin(), starts.end() - 1, c * kHistoryChunk) - starts.begin();
  };
  parallel_for(chunks, threads, [&](int64_t c) {
    History<F> history(values, levels, count, min_events, out);
    for (int64_t g = first(c), end = first(c + 1); g < end; ++g) {
      history.run(order.data() + starts[g], starts[g + 1] - starts[g], time);
    }
  });
}

}  // namespace ordkernels::host
