// Events are brought into order of (group, time). A short group is then replayed forwards, each event inserted into a
// sorted array. A long one is sorted once and replayed backwards: events leave a linked list of the sorted values, and
// a cursor per level follows, at most a step or two for each event. Both cost O(L) per event beside the sorting.
#include "host/history_quantiles.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "host/group_rows.h"
#include "host/parallel.h"
#include "host/quantile_levels.h"
#include "host/radix_sort.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kLongestInserted = 2048;   // beyond, moving the tail of the array costs more than the cursors
constexpr int64_t kChunkEvents = 16 * 1024;  // per unit of work

// One thread's replay of groups. Events are numbered by their order in time within their group.
template <class F>
class History {
 public:
  using K = key_of<F>;

  History(std::span<const F> values, const EventTimes& time, std::span<const double> levels, int64_t min_events, F* out)
      : values_(values.data()),
        time_(time),
        out_(out),
        count_(static_cast<int64_t>(levels.size())),
        min_events_(min_events),
        at_(levels.data(), count_),
        reader_(levels.data(), count_) {}

  // The rows of out that belong to one group's events, order [n].
  void run(const int64_t* order, int64_t n) {
    load_events(order, n);
    for (int64_t i = 0; i < std::min(n, kLongestInserted);
         ++i) {  // rows lie anywhere: fetched while others are computed
      for (int64_t l = 0; l < count_; l += 64 / sizeof(F)) {
        __builtin_prefetch(row(i) + l, 1, 2);
      }
    }
    if (n <= kLongestInserted) {
      replay_forwards(n);
    } else {
      replay_backwards(n);
    }
  }

 private:
  // events_ and incoming_ [n], in order of time.
  void load_events(const int64_t* order, int64_t n) {
    events_.resize(n);
    bool sorted = true;
    const auto load = [&](auto time) {
      for (int64_t i = 0; i < n; ++i) {
        events_[i] = {order_key(time[order[i]]), order[i]};
        sorted &= i == 0 || events_[i - 1].key <= events_[i].key;
      }
    };
    std::visit(load, time_);
    if (!sorted) {
      radix_sort(events_.data(), n, spare_);
    }
    incoming_.resize(n);  // gathered apart from the replay, so that cache misses overlap
    for (int64_t i = 0; i < n; ++i) {
      incoming_[i] = to_key(values_[events_[i].row]);
    }
  }

  int64_t tie_end(int64_t i, int64_t n) const {
    int64_t j = i + 1;
    while (j < n && events_[j].key == events_[i].key) {
      ++j;
    }
    return j;
  }

  F* row(int64_t i) const { return out_ + events_[i].row * count_; }

  // Copies the row of event i to the events (i, j) of the same time; without a past of min_events it is NaN.
  void finish(int64_t i, int64_t j) const {
    if (i < min_events_ || i == 0) {
      std::fill_n(row(i), count_, std::numeric_limits<F>::quiet_NaN());
    }
    for (int64_t k = i + 1; k < j; ++k) {
      std::copy_n(row(i), count_, row(k));
    }
  }

  void replay_forwards(int64_t n) {
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
        const int64_t rank = lower_bound(past_.data(), k, incoming_[k]);
        std::copy_backward(past_.begin() + rank, past_.begin() + k, past_.begin() + k + 1);
        past_[rank] = incoming_[k];
      }
    }
    reader_.finish();
  }

  // Nodes 1..n are the group's values in order, 0 and n+1 the ends of the list.
  struct Node {
    int64_t step[3];  // the node before, itself, the node after
  };
  struct Cursor {
    int64_t node, rank;
  };

  // The list of all values, and each cursor at its level among them.
  void link_values(int64_t n) {
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
      node_of_[sorted_[k].row] = k + 1;
      keys_[k + 1] = sorted_[k].key;
    }
    at_.set(n);
    cursors_.clear();
    for (int64_t l = 0; l < count_; ++l) {
      cursors_.push_back({at_.lo[l] + 1, at_.lo[l]});
    }
  }

  void replay_backwards(int64_t n) {
    link_values(n);
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
        move_cursors();
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

  // Brings each cursor to its level's rank. The first step is free of branches: one event needs one step at most.
  void move_cursors() {
    for (int64_t l = 0; l < count_; ++l) {
      Cursor& c = cursors_[l];
      const int64_t step = (at_.lo[l] > c.rank) - (at_.lo[l] < c.rank);
      c.node = nodes_[c.node].step[1 + step];
      c.rank += step;
      while (c.rank < at_.lo[l]) {
        c.node = nodes_[c.node].step[2];
        ++c.rank;
      }
      while (c.rank > at_.lo[l]) {
        c.node = nodes_[c.node].step[0];
        --c.rank;
      }
    }
  }

  const F* values_;
  const EventTimes& time_;
  F* out_;
  const int64_t count_, min_events_;
  Positions at_;
  LevelReader<F> reader_;
  std::vector<Keyed<int64_t>> events_, spare_;  // by time
  std::vector<K> incoming_;                     // the events' values, as keys
  std::vector<K> past_;                         // forwards: those of earlier events, sorted
  std::vector<Keyed<K>> sorted_, spare_values_;
  std::vector<K> keys_;           // backwards: of each node
  std::vector<int64_t> node_of_;  // of each event
  std::vector<Node> nodes_;
  std::vector<Cursor> cursors_;
};

}  // namespace

template <class F>
void history_quantiles(std::span<const F> values, const int64_t* group, const EventTimes& time,
                       std::span<const double> levels, int64_t min_events, int threads, F* out) {
  const int64_t n = static_cast<int64_t>(values.size()), chunks = n / kChunkEvents + 1;
  const GroupedRows rows = group_rows(group, n);
  const auto first = [&](int64_t c) { return c == chunks ? rows.groups() : first_group_from(rows, c * kChunkEvents); };
  parallel_for(chunks, threads, [&](int64_t c) {
    History<F> history(values, time, levels, min_events, out);
    for (int64_t g = first(c), end = first(c + 1); g < end; ++g) {
      history.run(rows.order.data() + rows.starts[g], rows.size(g));
    }
  });
}

template void history_quantiles(std::span<const float>, const int64_t*, const EventTimes&, std::span<const double>,
                                int64_t, int, float*);
template void history_quantiles(std::span<const double>, const int64_t*, const EventTimes&, std::span<const double>,
                                int64_t, int, double*);

}  // namespace ordkernels::host
