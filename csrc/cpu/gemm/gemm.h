// A matrix product of any strides, rows of c in strips of six: for products that are made next to what uses them, at
// the rate of the machine's multiply-adds. A block of b, 128 x 64, is packed at a time and stays in the first cache
// while all rows pass. Every sum runs over K in one order whatever the rows around it.
#pragma once
#include "cpu/gemm/gemm_args.h"
#include "cpu/gemm/gemm_tile.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <class T>
struct Gemm {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>, kStrip = 6;
  static constexpr int kPanelVectors = kPanel<T, kStrip>;

  const GemmArgs& g;
  const T *a = (const T*)g.a, *b = (const T*)g.b;
  T* const c = (T*)g.c;

  // c [M, NV vectors] at p; the last vector has `lanes`.
  template <int M, int NV, bool kAcross>
  inline __attribute__((always_inline)) void product(const T* x, const T* y, int64_t k, const T* bias, bool add, T* p,
                                                     int lanes) const {
    const int64_t stride = kAcross ? g.a_column : g.a_row;
    V acc[M][NV];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        const T* const from = add ? p + m * g.c_row + v * W : bias ? bias + v * W : nullptr;
        const int n = v + 1 < NV ? W : lanes;
        acc[m][v] = from ? load(from, n, from + n) : V{};
      }
    for (int64_t i = 0; i < k; ++i) {
      V row[NV];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        row[v] = load(y + i * kTileWidth + v * W);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const T xm = kAcross ? x[i * stride + m] : x[m * stride + i];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) {
          acc[m][v] += xm * row[v];
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        store(p + m * g.c_row + v * W, acc[m][v], v + 1 < NV ? W : lanes);
      }
  }

  // Columns [j, j + n) of a packed block, for one strip of M rows from r.
  template <int M, bool kAcross>
  __attribute__((noinline)) void strip(int64_t r, const T* packed, int64_t first, int64_t k, int64_t j, int64_t n,
                                       const T* bias, bool add) const {
    const T* const x = a + r * g.a_row + first * g.a_column;
    T* const p = c + r * g.c_row + j;
    int64_t at = 0;
    for (; at + kPanelVectors * W <= n; at += kPanelVectors * W) {
      product<M, kPanelVectors, kAcross>(x, packed + at, k, bias ? bias + j + at : nullptr, add, p + at, W);
    }
    for (; at < n; at += W) {
      product<M, 1, kAcross>(x, packed + at, k, bias ? bias + j + at : nullptr, add, p + at,
                             n - at < W ? (int)(n - at) : W);
    }
  }

  template <bool kAcross>
  void rows(int64_t begin, int64_t end, T* packed) const {
    for (int64_t j = 0; j < g.N; j += kTileWidth) {
      for (int64_t first = 0; first < g.K || first == 0; first += kGemmDepth) {
        const int64_t n = g.N - j < kTileWidth ? g.N - j : kTileWidth,
                      k = g.K - first < kGemmDepth ? g.K - first : kGemmDepth;
        if (g.b_row == 1) {
          pack(b + j * g.b_column + first, g.b_column, n, k, packed);
        } else {
          for (int64_t i = 0; i < k; ++i) {
            if (n < kTileWidth) {
              __builtin_memset(packed + i * kTileWidth, 0, kTileWidth * sizeof(T));
            }
            __builtin_memcpy(packed + i * kTileWidth, b + (first + i) * g.b_row + j, n * sizeof(T));
          }
        }
        const bool add = first || g.start == GemmStart::c;
        const T* const bias = g.start == GemmStart::bias ? (const T*)g.bias : nullptr;
        int64_t r = begin;
        for (; r + kStrip <= end; r += kStrip) {
          strip<kStrip, kAcross>(r, packed, first, k, j, n, bias, add);
        }
        switch (end - r) {
          case 1: strip<1, kAcross>(r, packed, first, k, j, n, bias, add); break;
          case 2: strip<2, kAcross>(r, packed, first, k, j, n, bias, add); break;
          case 3: strip<3, kAcross>(r, packed, first, k, j, n, bias, add); break;
          case 4: strip<4, kAcross>(r, packed, first, k, j, n, bias, add); break;
          case 5: strip<5, kAcross>(r, packed, first, k, j, n, bias, add); break;
        }
      }
    }
  }

  void run(int64_t begin, int64_t end, T* packed) const {
    g.a_row == 1 ? rows<true>(begin, end, packed) : rows<false>(begin, end, packed);
  }
};

}  // namespace

// Rows [begin, end) of c.
void gemm(const GemmArgs& g, int64_t begin, int64_t end, void* scratch) {
  g.is_double ? Gemm<double>{g}.run(begin, end, (double*)scratch) : Gemm<float>{g}.run(begin, end, (float*)scratch);
}

}  // namespace ORD_ISA
