// Moving elements to their buckets' next free places, as every pass of a radix sort does.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ordkernels::host {

// to[next[bucket(i)]++] = value(i), for i from 0 to n. Some elements are read before the first of them is written: as
// far as the processor can tell, a write may change what the following reads find, and one element after the other
// takes twice as long.
template <class T, class N, class Bucket, class Value>
inline void scatter(int64_t n, T* to, N* next, const Bucket& bucket, const Value& value) {
  constexpr int kAhead = sizeof(T) <= 8 ? 8 : 4;
  int64_t i = 0;
  for (; i + kAhead <= n; i += kAhead) {
    std::decay_t<decltype(bucket(i))> at[kAhead];
    T ahead[kAhead];
    for (int l = 0; l < kAhead; ++l) {
      at[l] = bucket(i + l), ahead[l] = value(i + l);
    }
    for (int l = 0; l < kAhead; ++l) {
      to[next[at[l]]++] = ahead[l];
    }
  }
  for (; i < n; ++i) {
    to[next[bucket(i)]++] = value(i);
  }
}

template <class T, class N, class Bucket>
inline void scatter(const T* from, int64_t n, T* to, N* next, const Bucket& bucket) {
  scatter(n, to, next, [&](int64_t i) { return bucket(from[i]); }, [&](int64_t i) { return from[i]; });
}

}  // namespace ordkernels::host
