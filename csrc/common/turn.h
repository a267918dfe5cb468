// A square of vectors turned: rows become columns. Included inside the namespace of an instruction set, once for each; ORD_TARGET is
// the attribute of its functions where the file is not compiled for that set as a whole.

template <int... I>
struct Order {};
template <int s, class V, int... I>
ORD_TARGET inline __attribute__((always_inline)) void swap_corners(V& a, V& b, Order<I...>) {
  constexpr int W = sizeof...(I);
  const V low = __builtin_shufflevector(a, b, (I & s ? I - s + W : I)...);
  b = __builtin_shufflevector(a, b, (I & s ? I + W : I + s)...);
  a = low;
}
// v [W] of W lanes each.
template <int s, int W, class V>
ORD_TARGET inline __attribute__((always_inline)) void turn(V* v) {
  if constexpr (s < W) {
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r)
      if (!(r & s)) swap_corners<s>(v[r], v[r + s], Order<__integer_pack(W)...>{});
    turn<2 * s, W>(v);
  }
}
