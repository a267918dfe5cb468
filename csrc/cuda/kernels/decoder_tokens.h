// From a row's logits to its next token, and what the logits say besides: a warp has the row.
#pragma once
#include "../noise.h"
#include "decoder_layer.h"

namespace decoder {

enum Mixup { kNone, kWindow, kFull };
constexpr int kSOS = 1, kEOS = 2, kFirst = 3;  // kFirst: the first value token

template <class A>
struct Reading {    // how logits are read
  In<A> values;     // [V]
  int half, mixup;  // the window is token - half, ..., token + half
  bool windowed, constrained, monotone;
  A temperature;
  uint64_t seed;
};

struct Choice {
  int token;
  bool has_nan;  // in the logits or in the noise
};

// Of the fp32 uniform that every backend has.
template <class A>
__device__ __forceinline__ A gumbel(uint32_t word) {
  const float u = (static_cast<float>(word >> 8) + 0.5f) * 5.9604644775390625e-8f;  // 2^-24
  const A e = -log(static_cast<A>(u)), least = A(2.9802322387695312e-8);            // 2^-25: 1 stands for 1 - 2^-25
  return -log(e < least ? least : e);
}

// The first of the largest scores. Logits that are not allowed become minus infinity.
template <class A>
__device__ __forceinline__ Choice choose(const Reading<A>& how, Shared<A> logits, int V, A remaining, uint64_t row,
                                         int64_t draw, uint32_t step) {
  const int lane = threadIdx.x % 32;
  const bool sampled = how.temperature > A(0);
  bool has_nan = sampled && (draw < 0 || draw > (INT64_C(4294967297) - V) / V);
  A best = -INFINITY;
  int token = INT32_MAX;
  for (int j = lane; j < V; j += 32) {
    A logit = logits[j];
    has_nan = has_nan || logit != logit;
    if (how.constrained && j != kEOS && !(j >= kFirst && how.values[j] <= remaining)) {
      logit = -INFINITY;
      logits[j] = logit;
    }
    A score = logit;
    if (sampled && !has_nan) {
      const uint64_t index = static_cast<uint64_t>(draw) * V + j;
      const noise::Words words = noise::philox(row, step, static_cast<uint32_t>(index / 4), how.seed);
      const int word = index % 4;
      const uint32_t x = word < 2 ? (word == 0 ? words.x[0] : words.x[1]) : (word == 2 ? words.x[2] : words.x[3]);
      score = logit / how.temperature + gumbel<A>(x);
      has_nan = has_nan || score != score;
    }
    if (score > best || (score == best && j < token)) {
      best = score, token = j;
    }
  }
#pragma unroll
  for (int m = 16; m > 0; m /= 2) {
    const A other = __shfl_xor_sync(kAll, best, m);
    const int its_token = __shfl_xor_sync(kAll, token, m);
    if (other > best || (other == best && its_token < token)) {
      best = other, token = its_token;
    }
  }
  has_nan = __ballot_sync(kAll, has_nan) != 0;
  return {token < V ? token : 0, has_nan};
}

// The largest and the sum of exp(logit - largest) over the tokens for which `counts`.
template <class A, class F>
__device__ __forceinline__ void softmax_of(Shared<A> logits, int V, F counts, A& largest, A& total) {
  largest = -INFINITY, total = 0;
  for (int j = threadIdx.x % 32; j < V; j += 32) {
    const A logit = logits[j];
    largest = counts(j) && logit > largest ? logit : largest;
  }
#pragma unroll
  for (int m = 16; m > 0; m /= 2) {
    largest = fmax(largest, __shfl_xor_sync(kAll, largest, m));
  }
  for (int j = threadIdx.x % 32; j < V; j += 32) {
    if (counts(j)) {
      total += exp(logits[j] - largest);
    }
  }
  warp_sum(total);
}

__device__ __forceinline__ bool is_near(int j, int token, int half) { return j - token <= half && token - j <= half; }

// The expected value of the tokens near the chosen one.
template <class A>
__device__ __forceinline__ A window_value(const Reading<A>& how, Shared<A> logits, int V, int token) {
  A largest, total, sum = 0;
  softmax_of(logits, V, [](int) { return true; }, largest, total);
  for (int j = threadIdx.x % 32; j < V; j += 32) {
    if (is_near(j, token, how.half)) {
      sum += exp(logits[j] - largest) / total * how.values[j];
    }
  }
  warp_sum(sum);
  return sum;
}

// to [n] = the mean embedding of the tokens, by the softmax of their logits (which become its numbers).
template <class A>
__device__ __forceinline__ void mix_embeddings(const Reading<A>& how, In<A> embedding, Shared<A> logits, int V,
                                               int token, Shared<A> to, int n) {
  const int lane = threadIdx.x % 32;
  const auto counts = [&](int j) {
    return how.mixup == kFull || (token < kFirst ? j == token : j >= kFirst && is_near(j, token, how.half));
  };
  A largest, total;
  softmax_of(logits, V, counts, largest, total);
  for (int j = lane; j < V; j += 32) {
    const A e = exp(logits[j] - largest);
    logits[j] = counts(j) ? e / total : A(0);
  }
  __syncwarp();
  for (int i = lane; i < n; i += 32) {
    A sum = 0;
    for (int j = 0; j < V; ++j) {
      const A share = logits[j];
      if (share != A(0)) {
        sum += share * embedding[static_cast<int64_t>(j) * n + i];
      }
    }
    to[i] = sum;
  }
}

}  // namespace decoder
