// Moving elements to the next free places of their buckets, as every pass of a radix sort does.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ordkernels::host {

// to[next[bucket(i)]++] = value(i), for i from 0 to n. A batch of elements is read before the first of them is written:
// the processor must assume that a write changes what later reads find, and one element at a time takes twice as long.
template <class T, class N, class Bucket, class Value>
inline void scatter(int64_t n, T* to, N* next, const Bucket& bucket, const Value& value) {
  constexpr int kBatch = sizeof(T) <= 8 ? 8 : 4;
  int64_t i = 0;
  for (; i + kBatch <= n; i += kBatch) {
    std::decay_t<decltype(bucket(i))> buckets[kBatch];
    T values[kBatch];
    for (int l = 0; l < kBatch; ++l) {
      buckets[l] = bucket(i + l);
      values[l] = value(i + l);
    }
    for (int l = 0; l < kBatch; ++l) {
      to[next[buckets[l]]++] = values[l];
    }
  }
  for (; i < n; ++i) {
    to[next[bucket(i)]++] = value(i);
  }
}

// The elements of from [n]; bucket is a function of an element.
template <class T, class N, class Bucket>
inline void scatter(const T* from, int64_t n, T* to, N* next, const Bucket& bucket) {
  scatter(n, to, next, [&](int64_t i) { return bucket(from[i]); }, [&](int64_t i) { return from[i]; });
}

}  // namespace ordkernels::host
