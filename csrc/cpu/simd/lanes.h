// Sums over the lanes of vectors, and other work across lanes.
#pragma once
#include "cpu/simd/vectors.h"

namespace ORD_ISA {

typedef float v4f __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
typedef int64_t v2l __attribute__((vector_size(16)));

ORD_INLINE float sum(vf v) {
#if ORD_BYTES == 64
  const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  v4f q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#elif ORD_BYTES == 32
  v4f q = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  v4f q = v;
#endif
  q += __builtin_shufflevector(q, q, 2, 3, 0, 1);
  return q[0] + q[1];
}
ORD_INLINE double sum(vd v) {
#if ORD_BYTES == 64
  const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  const v2d q = __builtin_shufflevector(h, h, 0, 1) + __builtin_shufflevector(h, h, 2, 3);
#elif ORD_BYTES == 32
  const v2d q = __builtin_shufflevector(v, v, 0, 1) + __builtin_shufflevector(v, v, 2, 3);
#else
  const v2d q = v;
#endif
  return q[0] + q[1];
}
// The sums of W vectors at once: lane i of the result is the sum of v[i]. At each step lanes i and i ^ w of two vectors
// meet.
template <int... I>
struct Lanes {};
template <int w, class V, int... I>
ORD_INLINE V shuffle_xor(V v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, (I ^ w)...);
}
template <int w, class V>
ORD_INLINE V shuffle_xor(V v) {  // lane i ^ w in lane i
  return shuffle_xor<w>(v, Lanes<__integer_pack(kSize<V>)...>{});
}
template <int w, class V, int... I>
ORD_INLINE V pairwise_add(V a, V b, Lanes<I...>) {
  constexpr int W = sizeof...(I);
  return __builtin_shufflevector(a, b, (I & w ? I + W : I)...) +
         __builtin_shufflevector(a, b, (I & w ? (I ^ w) + W : (I ^ w))...);
}
template <int w, class V>
ORD_INLINE V horizontal_sums_from(
    const V* v) {  // of v[0], v[1], ... v[2 w - 1], each summed over the lanes whose higher bits differ
  using L = Lanes<__integer_pack(kSize<V>)...>;
  if constexpr (w == 1) {
    return pairwise_add<1>(v[0], v[1], L{});
  } else {
    return pairwise_add<w>(horizontal_sums_from<w / 2>(v), horizontal_sums_from<w / 2>(v + w), L{});
  }
}
template <class V>
ORD_INLINE V horizontal_sums(const V* v) {
  return horizontal_sums_from<kSize<V> / 2>(v);
}
// The same of M vectors, M at most W: lane i of the first M has the sum of v[i].
template <int M, class V>
ORD_INLINE V horizontal_sums_of(const V* v) {
  V s = horizontal_sums_from<M / 2>(v);
  if constexpr (2 * M == kSize<V>) {
    s += shuffle_xor<M>(s);
  }
  static_assert(M == kSize<V> || 2 * M == kSize<V>);
  return s;
}
// The first M lanes of v to p, and back from there: M lanes from p, and another M from q where a vector has twice as
// many.
template <int M, class T, class V>
ORD_INLINE void store_first(T* p, V v) {
  __builtin_memcpy(p, &v, M * sizeof(T));
}
template <class V, int... I>
ORD_INLINE V join(const void* p, const void* q, Lanes<I...>) {
  typedef decltype(V{}[0] + 0) Half __attribute__((vector_size(sizeof(V) / 2)));
  Half a, b;
  __builtin_memcpy(&a, p, sizeof a);
  __builtin_memcpy(&b, q, sizeof b);
  return __builtin_shufflevector(a, b, I...);
}
template <int M, class V>
ORD_INLINE V load_parts(const void* p, const void* q) {
  using L = Lanes<__integer_pack(kSize<V>)...>;
  if constexpr (M == kSize<V>) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else {
    return join<V>(p, q, L{});
  }
}
template <class I>
ORD_INLINE bool any(I mask) {
  v2l part[sizeof(I) / 16];
  __builtin_memcpy(part, &mask, sizeof mask);
  v2l r = part[0];
  for (unsigned i = 1; i < sizeof(I) / 16; ++i) {
    r |= part[i];
  }
  return (r[0] | r[1]) != 0;
}

}  // namespace ORD_ISA
