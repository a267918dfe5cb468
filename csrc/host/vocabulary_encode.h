// Greedy encoding of labels as sequences of a vocabulary's values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "host/value_finder.h"

namespace ordkernels::host {

constexpr int kFirstValueToken = 3, kEndToken = 2;

struct Encoder {
  ValueFinder find;
  double tolerance;  // in [0, 1): the share of a label that its sequence may leave over
};

// A label's length is that of its sequence; in vocabulary_encode without the end token, and of a label that does not
// fit, what it needs. It is -1 where no value fits and too much is left. The remainder is what is left.

// tokens [N, T], of int16_t or int32_t; lengths, remainders [N]
template <class I>
struct Encoded {
  I* tokens;
  int32_t* lengths;
  int64_t* remainders;
};

// labels [N] -> out. False if a label did not fit into T tokens.
template <class I>
bool vocabulary_encode(std::span<const int64_t> labels, const Encoder& encoder, int64_t T, int threads, Encoded<I> out);

// labels [N] -> how often each value is used [V]; lengths, remainders [N], for sequences of any length.
std::vector<int64_t> vocabulary_usage(std::span<const int64_t> labels, const Encoder& encoder, int threads,
                                      int64_t* lengths, int64_t* remainders);

}  // namespace ordkernels::host
