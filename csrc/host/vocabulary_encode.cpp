#include "host/vocabulary_encode.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "host/parallel.h"

namespace ordkernels::host {

ValueFinder::ValueFinder(const int64_t* values, int64_t count) : values_(values, values + count) {
  values_.push_back(0);
  for (bucket_bits_ = 3; bucket_bits_ < 7; ++bucket_bits_) {
    build();
    if (max_in_bucket_ <= 1) {
      break;
    }
  }
  if (max_in_bucket_ > 1) {
    build();
  }
}

void ValueFinder::build() {
  const int64_t buckets = int64_t(65) << bucket_bits_, n = size();
  start_.assign(buckets, 0);
  std::vector<int32_t> inside(buckets, 0);
  for (int64_t i = 0; i < n; ++i) {
    ++inside[bucket(values_[i])];
  }
  max_in_bucket_ = 0;
  int32_t above = 0;  // values in higher buckets
  for (int64_t b = buckets - 1; b >= 0; --b) {
    start_[b] = above;
    above += inside[b];
    max_in_bucket_ = std::max(max_in_bucket_, inside[b]);
  }
}

namespace {

constexpr int64_t kChunkLabels = 1 << 14;  // per unit of work

int64_t allowed_remainder(int64_t y, double tolerance) {
  return static_cast<int64_t>(tolerance * static_cast<double>(y));
}

// How often value v is taken until less than v, or no more than `allowed`, is left.
int64_t repeats(int64_t remainder, int64_t v, int64_t allowed) {
  return std::min(remainder / v, (remainder - allowed + v - 1) / v);
}

// The length of the rest of a sequence, whose tokens go to use(value index, times); -1 if no value fits and too much is
// left.
template <class Use>
int64_t finish_sequence(const ValueFinder& find, int64_t& remainder, int64_t allowed, const Use& use) {
  int64_t length = 0;
  while (remainder > allowed) {
    const int64_t i = find(remainder);
    if (i == find.size()) {
      return -1;
    }
    const int64_t k = repeats(remainder, find.value(i), allowed);
    use(i, k);
    remainder -= k * find.value(i);
    length += k;
  }
  return length;
}

// A label's tokens go to row [T]; returns its length.
template <class I>
int64_t write_row(int64_t y, const Encoder& encoder, int64_t T, I* row, int64_t& remainder) {
  std::memset(row, 0, T * sizeof(I));
  const int64_t allowed = allowed_remainder(y, encoder.tolerance);
  int64_t t = 0;
  remainder = y;
  while (remainder > allowed && t < T - 1) {
    const int64_t i = encoder.find(remainder);
    if (i == encoder.find.size()) {
      return -1;
    }
    row[t++] = static_cast<I>(i + kFirstValueToken);
    remainder -= encoder.find.value(i);
  }
  if (remainder > allowed) {
    const int64_t more = finish_sequence(encoder.find, remainder, allowed, [](int64_t, int64_t) {});
    return more < 0 ? -1 : std::min<int64_t>(t + more, INT32_MAX);
  }
  row[t] = kEndToken;
  return t;
}

// The sequences of all labels below size(): where most labels are small, most rows are copies of these.
class SmallLabels {
 public:
  static constexpr int64_t kTokens = 14;
  static constexpr uint16_t kTooLong = 0xFFFF;
  struct alignas(32) Row {
    uint16_t remainder;
    uint16_t length;  // kTooLong: more than kTokens holds, the end token included
    int16_t tokens[kTokens];
  };

  SmallLabels(std::span<const int64_t> labels, const Encoder& encoder, int64_t T) {
    const int64_t n = static_cast<int64_t>(labels.size()), size = std::min<int64_t>(int64_t(1) << 16, n / 8);
    if (size < 256 || T < kTokens) {
      return;
    }
    int64_t small = 0;
    for (int64_t i = 0; i < 256; ++i) {
      small += labels[i * (n / 256)] < size;
    }
    if (small < 128) {
      return;
    }
    rows_.resize(size);
    for (int64_t y = 0; y < size; ++y) {
      int64_t remainder;
      const int64_t length = write_row(y, encoder, kTokens, rows_[y].tokens, remainder);
      rows_[y].length = length >= 0 && length < kTokens ? static_cast<uint16_t>(length) : kTooLong;
      rows_[y].remainder = static_cast<uint16_t>(remainder);
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

constexpr int kSideBySide = 8;

// The rows of labels[at[0, kSideBySide)], which hides the time that one label's look-ups wait for each other. False if
// a label did not fit.
template <class I>
bool write_rows(const int64_t* labels, const int32_t* at, const Encoder& encoder, int64_t T, Encoded<I> out) {
  const ValueFinder& find = encoder.find;
  int64_t remainder[kSideBySide], allowed[kSideBySide], length[kSideBySide];
  I* row[kSideBySide];
  for (int l = 0; l < kSideBySide; ++l) {
    remainder[l] = labels[at[l]];
    allowed[l] = allowed_remainder(remainder[l], encoder.tolerance);
    length[l] = 0;
    row[l] = out.tokens + at[l] * T;
  }
  int64_t any_live = -1;
  int64_t t = 0;
  for (; any_live && t < T - 1; ++t) {
    any_live = 0;
    for (int l = 0; l < kSideBySide; ++l) {
      const int64_t live = -int64_t(remainder[l] > allowed[l]);  // a mask: a branch would be mispredicted
      const int64_t i = find(std::max<int64_t>(remainder[l], 1));
      row[l][t] = static_cast<I>((i + kFirstValueToken) & live);
      remainder[l] -= find.value(i) & live;
      length[l] -= live;
      any_live |= live;
    }
  }
  bool fits = true;
  for (int l = 0; l < kSideBySide; ++l) {
    if (remainder[l] <= allowed[l]) {
      std::memset(row[l] + t, 0, (T - t) * sizeof(I));
      row[l][length[l]] = kEndToken;
    } else {
      fits = false;
      length[l] = write_row(labels[at[l]], encoder, T, row[l], remainder[l]);
    }
    out.lengths[at[l]] = static_cast<int32_t>(length[l]);
    out.remainders[at[l]] = remainder[l];
  }
  return fits;
}

// Copies the rows of known labels; the indices of the other labels [n] go to `pending`. Returns how many these are.
template <class I>
int64_t copy_known(const int64_t* labels, int64_t n, const SmallLabels& known, int64_t T, Encoded<I> out,
                   int32_t* pending) {
  const auto known_size = static_cast<uint64_t>(known.size());
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    // Read once: another thread may write to `labels`, and what is compared is also an index.
    const auto label = static_cast<uint64_t>(__atomic_load_n(&labels[i], __ATOMIC_RELAXED));
    bool done = label < known_size;
    if constexpr (sizeof(I) == 2) {
      if (known_size) {
        constexpr int64_t kAhead = 24;  // rows lie anywhere in a table larger than the second-level cache
        if (const auto next = static_cast<uint64_t>(labels[std::min(i + kAhead, n - 1)]); next < known_size) {
          __builtin_prefetch(known.data() + next);
        }
        const auto& row = known.data()[done ? label : 0];
        SmallLabels::copy(row, out.tokens + i * T, T);
        out.lengths[i] = row.length;
        out.remainders[i] = row.remainder;
        done &= row.length != SmallLabels::kTooLong;
      }
    }
    pending[count] = static_cast<int32_t>(i);
    count += !done;
  }
  return count;
}

}  // namespace

template <class I>
bool vocabulary_encode(std::span<const int64_t> labels, const Encoder& encoder, int64_t T, int threads,
                       Encoded<I> out) {
  const int64_t n = static_cast<int64_t>(labels.size());
  const SmallLabels known(sizeof(I) == 2 ? labels : std::span<const int64_t>(), encoder, T);
  std::atomic<bool> fits{true};
  parallel_for((n + kChunkLabels - 1) / kChunkLabels, threads, [&](int64_t c) {
    const int64_t begin = c * kChunkLabels, size = std::min(n - begin, kChunkLabels);
    const int64_t* chunk = labels.data() + begin;
    const Encoded<I> to{out.tokens + begin * T, out.lengths + begin, out.remainders + begin};
    std::vector<int32_t> pending(size + kSideBySide);  // labels with no row to copy
    const int64_t count = copy_known(chunk, size, known, T, to, pending.data());
    for (int64_t i = count; i % kSideBySide; ++i) {
      pending[i] = pending[count - 1];
    }
    bool all_fit = true;
    for (int64_t i = 0; i < count; i += kSideBySide) {
      all_fit &= write_rows(chunk, &pending[i], encoder, T, to);
    }
    if (!all_fit) {
      fits = false;
    }
  });
  return fits;
}

template bool vocabulary_encode(std::span<const int64_t>, const Encoder&, int64_t, int, Encoded<int16_t>);
template bool vocabulary_encode(std::span<const int64_t>, const Encoder&, int64_t, int, Encoded<int32_t>);

std::vector<int64_t> vocabulary_usage(std::span<const int64_t> labels, const Encoder& encoder, int threads,
                                      int64_t* lengths, int64_t* remainders) {
  const int64_t n = static_cast<int64_t>(labels.size());
  const ValueFinder& find = encoder.find;
  std::vector<int64_t> total(find.size(), 0);
  std::mutex lock;
  parallel_for((n + kChunkLabels - 1) / kChunkLabels, threads, [&](int64_t c) {
    std::vector<int64_t> used(find.size(), 0);
    for (int64_t i = c * kChunkLabels, end = std::min(n, (c + 1) * kChunkLabels); i < end; ++i) {
      int64_t remainder = labels[i];
      const int64_t allowed = allowed_remainder(remainder, encoder.tolerance);
      lengths[i] = finish_sequence(find, remainder, allowed, [&](int64_t v, int64_t k) { used[v] += k; });
      remainders[i] = remainder;
    }
    std::lock_guard<std::mutex> hold(lock);
    for (int64_t v = 0; v < find.size(); ++v) {
      total[v] += used[v];
    }
  });
  return total;
}

}  // namespace ordkernels::host
