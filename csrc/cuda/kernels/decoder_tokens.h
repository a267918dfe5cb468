// From a row's logits to its next token, and what the logits say besides: a warp has the row.
#pragma once
#include "../noise.h"
#include "decoder_layer.h"

namespace decoder {

enum Mixup { kNone, kWindow, kFull };
constexpr int kSOS = 1, kEOS = 2, kFirst = 3;  // kFirst: the first value token

struct Reading {     // how logits are read
  In<float> values;  // [V]
  int half, mixup;   // the window is token - half, ..., token + half
  bool windowed, constrained, monotone;
  float temperature;
  uint64_t seed;
};

struct Choice {
  int token;
  bool has_nan;  // in the logits or in the noise
};

__device__ __forceinline__ float gumbel(uint32_t word) {
  const float u = (static_cast<float>(word >> 8) + 0.5f) * 5.9604644775390625e-8f;  // 2^-24
  const float e = -logf(u);
  return -logf(e < 2.9802322387695312e-8f ? 2.9802322387695312e-8f : e);  // 2^-25: 1 stands for 1 - 2^-25
}

// The first of the largest scores. Logits that are not allowed become minus infinity.
__device__ __forceinline__ Choice choose(const Reading& how, Shared<float> logits, int V, float remaining, uint64_t row,
                                         int64_t draw, uint32_t step) {
  const int lane = threadIdx.x % 32;
  const bool sampled = how.temperature > 0.0f;
  bool has_nan = sampled && (draw < 0 || draw > (INT64_C(4294967297) - V) / V);
  float best = -INFINITY;
  int token = INT32_MAX;
  for (int j = lane; j < V; j += 32) {
    float logit = logits[j];
    has_nan = has_nan || logit != logit;
    if (how.constrained && j != kEOS && !(j >= kFirst && how.values[j] <= remaining)) {
      logit = -INFINITY;
      logits[j] = logit;
    }
    float score = logit;
    if (sampled && !has_nan) {
      const uint64_t index = static_cast<uint64_t>(draw) * V + j;
      const noise::Words words = noise::philox(row, step, static_cast<uint32_t>(index / 4), how.seed);
      const int word = index % 4;
      const uint32_t x = word < 2 ? (word == 0 ? words.x[0] : words.x[1]) : (word == 2 ? words.x[2] : words.x[3]);
      score = logit / how.temperature + gumbel(x);
      has_nan = has_nan || score != score;
    }
    if (score > best || (score == best && j < token)) {
      best = score, token = j;
    }
  }
#pragma unroll
  for (int m = 16; m > 0; m /= 2) {
    const float other = __shfl_xor_sync(kAll, best, m);
    const int its_token = __shfl_xor_sync(kAll, token, m);
    if (other > best || (other == best && its_token < token)) {
      best = other, token = its_token;
    }
  }
  has_nan = __ballot_sync(kAll, has_nan) != 0;
  return {token < V ? token : 0, has_nan};
}

// The largest and the sum of exp(logit - largest) over the tokens for which `counts`.
template <class F>
__device__ __forceinline__ void softmax_of(Shared<float> logits, int V, F counts, float& largest, float& total) {
  largest = -INFINITY, total = 0.0f;
  for (int j = threadIdx.x % 32; j < V; j += 32) {
    const float logit = logits[j];
    largest = counts(j) && logit > largest ? logit : largest;
  }
#pragma unroll
  for (int m = 16; m > 0; m /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, m));
  }
  for (int j = threadIdx.x % 32; j < V; j += 32) {
    if (counts(j)) {
      total += expf(logits[j] - largest);
    }
  }
  warp_sum(total);
}

__device__ __forceinline__ bool is_near(int j, int token, int half) { return j - token <= half && token - j <= half; }

// The expected value of the tokens near the chosen one.
__device__ __forceinline__ float window_value(const Reading& how, Shared<float> logits, int V, int token) {
  float largest, total, sum = 0.0f;
  softmax_of(logits, V, [](int) { return true; }, largest, total);
  for (int j = threadIdx.x % 32; j < V; j += 32) {
    if (is_near(j, token, how.half)) {
      sum += expf(logits[j] - largest) / total * how.values[j];
    }
  }
  warp_sum(sum);
  return sum;
}

// to [n] = the mean embedding of the tokens, by the softmax of their logits (which become its numbers).
__device__ __forceinline__ void mix_embeddings(const Reading& how, In<float> embedding, Shared<float> logits, int V,
                                               int token, Shared<float> to, int n) {
  const int lane = threadIdx.x % 32;
  const auto counts = [&](int j) {
    return how.mixup == kFull || (token < kFirst ? j == token : j >= kFirst && is_near(j, token, how.half));
  };
  float largest, total;
  softmax_of(logits, V, counts, largest, total);
  for (int j = lane; j < V; j += 32) {
    const float e = expf(logits[j] - largest);
    logits[j] = counts(j) ? e / total : 0.0f;
  }
  __syncwarp();
  for (int i = lane; i < n; i += 32) {
    float sum = 0.0f;
    for (int j = 0; j < V; ++j) {
      const float share = logits[j];
      if (share != 0.0f) {
        sum += share * embedding[static_cast<int64_t>(j) * n + i];
      }
    }
    to[i] = sum;
  }
}

}  // namespace decoder
