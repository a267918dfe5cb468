// The largest value of a vocabulary that is not above a number.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace ordkernels::host {

// Values, falling and at least 1, in buckets by their length in bits and the bits behind the leading one.
class ValueFinder {
 public:
  ValueFinder(const int64_t* values, int64_t count);

  int64_t size() const { return static_cast<int64_t>(values_.size()) - 1; }
  int64_t value(int64_t i) const { return values_[i]; }

  // The index of the largest value <= x, x >= 1; size() where every value is larger.
  int64_t operator()(int64_t x) const {
    int64_t i = start_[bucket(x)];
    if (max_in_bucket_ <= 1) {
      return i + (values_[i] > x);
    }
    while (values_[i] > x) {
      ++i;
    }
    return i;
  }

 private:
  // The leading bits of x as a double: its exponent, then the bits behind the leading one. (Counting leading zeros
  // makes look-ups wait for each other: the instruction depends on the register that it writes.)
  int64_t bucket(int64_t x) const {
    const auto bits = std::bit_cast<uint64_t>(static_cast<double>(x));
    return static_cast<int64_t>((bits >> (52 - bucket_bits_)) - (uint64_t(1023) << bucket_bits_));
  }
  void build();

  std::vector<int64_t> values_;  // [V + 1]: the last is 0, which is never above a number
  std::vector<int32_t> start_;   // of each bucket: how many values are in higher ones
  int bucket_bits_ = 0;
  int32_t max_in_bucket_ = 0;
};

}  // namespace ordkernels::host
