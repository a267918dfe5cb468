// Products of row-major matrices, of a few rows up to some hundred, next to what uses them: nothing is padded or
// copied. Every sum runs over its inputs in one order whatever the number of rows, so a row's bits do not depend on the
// rows around it.
#pragma once
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <int N>
struct Constant {
  static constexpr int value = N;
};

enum class RowStart { zero, bias, add };
enum class RowEnd { store, add, times };  // what the sums are combined with, at last

// c [M, N] = start + a [M, K] b [K, N], then plus or times `other` [M, N]; strides in elements, of a's one is 1.
template <class T>
struct RowProduct {
  const T* a;
  int64_t a_row, a_column;
  const T* b;
  int64_t b_row;  // 0: b lies in panels, as pack_panels makes them
  T* c;
  int64_t c_row, K;
  RowStart start;
  const T* bias = nullptr;
  RowEnd end = RowEnd::store;
  const T* other = nullptr;  // rows as those of c; may be c
};

// Vectors of a panel: with them and its rows the sums fill the registers.
constexpr int kPanelVectors = ORD_BYTES == 64 ? 4 : 2;
template <int NV>
constexpr int kPanelRows = ORD_BYTES < 64 ? (NV == 2 ? 6 : 8)
                           : NV == 4      ? 6
                           : NV == 3      ? 8
                                          : 12;
template <class T>
constexpr int64_t kPanelWidth = kPanelVectors * kLanes<T>;

// M rows by NV vectors; kTail: of the only vector only the first `lanes` exist.
template <class T, int M, int NV, bool kAcross, bool kTail>
ORD_INLINE void product_block(const RowProduct<T>& p, const T* a, const T* b, int64_t b_row, const T* bias, T* c,
                              int lanes) {
  using V = typename Traits<T>::V;
  constexpr int W = kLanes<T>;
  static_assert(!kTail || NV == 1);
  const auto read = [&](const T* from)
                        __attribute__((always_inline)) { return kTail ? load(from, lanes, from + lanes) : load(from); };
  V acc[M][NV];
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      acc[m][v] = p.start == RowStart::zero  ? V{}
                  : p.start == RowStart::add ? read(c + m * p.c_row + v * W)
                                             : read(bias + v * W);
    }
  const int64_t step = kAcross ? p.a_column : p.a_row;
  for (int64_t k = 0; k < p.K; ++k) {
    V row[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      row[v] = read(b + k * b_row + v * W);
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const T x = kAcross ? a[k * step + m] : a[m * step + k];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        acc[m][v] += x * row[v];
      }
    }
  }
  if (p.end != RowEnd::store) {
    const T* const other = p.other + (c - p.c);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const V o = read(other + m * p.c_row + v * W);
        acc[m][v] = p.end == RowEnd::add ? acc[m][v] + o : acc[m][v] * o;
      }
  }
#pragma GCC unroll 12
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      store(c + m * p.c_row + v * W, acc[m][v], kTail ? lanes : W);
    }
}

// All M rows by the NV vectors at b.
template <class T, int NV, bool kAcross, bool kTail>
__attribute__((noinline)) static void product_panel(int64_t M, const RowProduct<T>& p, const T* b, int64_t b_row,
                                                    const T* bias, T* c, int lanes) {
  constexpr int R = kPanelRows<NV>;
  const T* a = p.a;
  const auto rows = [&](auto m) __attribute__((always_inline)) {
    product_block<T, decltype(m)::value, NV, kAcross, kTail>(p, a, b, b_row, bias, c, lanes);
    a += decltype(m)::value * (kAcross ? 1 : p.a_row);
    c += decltype(m)::value * p.c_row;
    M -= decltype(m)::value;
  };
  while (M >= R) {
    rows(Constant<R>{});
  }
  if constexpr (R > 8) {
    if (M >= 8) {
      rows(Constant<8>{});
    }
  }
  if (M >= 4) {
    rows(Constant<4>{});
  }
  if (M >= 2) {
    rows(Constant<2>{});
  }
  if (M >= 1) {
    rows(Constant<1>{});
  }
}

template <class T, bool kAcross>
static void multiply_rows_by(int64_t M, int64_t N, const RowProduct<T>& p) {
  constexpr int W = kLanes<T>;
  for (int64_t j = 0; j < N; j += kPanelWidth<T>) {
    const int64_t n = N - j < kPanelWidth<T> ? N - j : kPanelWidth<T>;
    const int vectors = (int)(n / W), lanes = (int)(n % W);
    const T* const b = p.b + (p.b_row ? j : j * p.K);
    const int64_t b_row = p.b_row ? p.b_row : (n + W - 1) / W * W;
    const T* const bias = p.bias ? p.bias + j : nullptr;
    T* const c = p.c + j;
    switch (vectors) {
      case 1: product_panel<T, 1, kAcross, false>(M, p, b, b_row, bias, c, W); break;
      case 2: product_panel<T, 2, kAcross, false>(M, p, b, b_row, bias, c, W); break;
#if ORD_BYTES == 64
      case 3: product_panel<T, 3, kAcross, false>(M, p, b, b_row, bias, c, W); break;
      case 4: product_panel<T, 4, kAcross, false>(M, p, b, b_row, bias, c, W); break;
#endif
    }
    if (lanes) {
      const int64_t at = vectors * W;
      product_panel<T, 1, kAcross, true>(M, p, b + at, b_row, bias ? bias + at : nullptr, c + at, lanes);
    }
  }
}

template <class T>
static void multiply_rows(int64_t M, int64_t N, const RowProduct<T>& p) {
  p.a_row == 1 && p.a_column != 1 ? multiply_rows_by<T, true>(M, N, p) : multiply_rows_by<T, false>(M, N, p);
}

// Elements of w [N, K] in panels.
template <class T>
static int64_t panels_size(int64_t N, int64_t K) {
  return (N + kLanes<T> - 1) / kLanes<T> * kLanes<T> * K;
}
// The transpose of w [N, K] as b [K, N] in panels, zeros behind N.
template <class T>
static void pack_panels(const T* w, int64_t N, int64_t K, T* to) {
  constexpr int W = kLanes<T>;
  for (int64_t j = 0; j < N; j += kPanelWidth<T>) {
    const int64_t n = N - j < kPanelWidth<T> ? N - j : kPanelWidth<T>, width = (n + W - 1) / W * W;
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = 0; i < width; ++i) {
        to[j * K + k * width + i] = i < n ? w[(j + i) * K + k] : T{};
      }
    }
  }
}

}  // namespace
}  // namespace ORD_ISA
