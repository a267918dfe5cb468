// Squares of vectors transposed. Included inside the namespace of an instruction set, once for each; ORD_TARGET is the
// attribute of its functions where the file is not compiled for that set as a whole.

template <int... I>
struct Order {};
template <int s, class V, int... I>
ORD_TARGET inline __attribute__((always_inline)) void swap_corners(V& a, V& b, Order<I...>) {
  constexpr int W = sizeof...(I);
  const V low = __builtin_shufflevector(a, b, (I & s ? I - s + W : I)...);
  b = __builtin_shufflevector(a, b, (I & s ? I + W : I + s)...);
  a = low;
}
// Swaps the off-diagonal blocks of size s, 2 s, ... of M vectors: lane h M + i of vector k and lane h M + k of vector i
// change places.
template <int s, int M, class V>
ORD_TARGET inline __attribute__((always_inline)) void transpose(V* v) {
  if constexpr (s < M) {
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      if (!(r & s)) {
        swap_corners<s>(v[r], v[r + s], Order<__integer_pack(sizeof(V) / sizeof(V{}[0]))...>{});
      }
    }
    transpose<2 * s, M>(v);
  }
}
