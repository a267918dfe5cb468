// windowed_value: the softmax-weighted sum of the values in a window around the most likely token. Included once per
// instruction set.
#pragma once
#include "cpu/ops/token_window.h"

namespace ORD_ISA {
namespace {

ORD_INLINE Window value_window(const TokenArgs& a, int64_t at) {
  if (a.half < 0) {
    return {0, a.V};
  }
  const int64_t lo = at - a.half, hi = at + a.half + 1;
  return {lo > 0 ? lo : 0, hi < a.V ? hi : a.V};
}

// The sum over the window, p not yet normalised.
template <class T>
ORD_INLINE T window_sum(const T* p, const T* values, const T* values_end, Window w) {
  typename Traits<T>::V total{};
  for_each_vector<T>(w.end - w.begin, [&](int64_t j, int lanes) __attribute__((always_inline)) {
    total += load(p + w.begin + j, lanes, p + w.begin + j + kLanes<T>) * load(values + w.begin + j, lanes, values_end);
  });
  return sum(total);
}

template <class T>
static void value_rows(const TokenArgs& a, int64_t begin, int64_t end, T* p) {
  const T* const values = (const T*)a.table;
  T* const buffer = p + padded(a.V + 16);
  for (int64_t r = begin; r < end; ++r) {
    const Elements<T> x = logits_of(a, r, buffer);
    const Largest<T> top = largest_of(x, a.V);
    T y = (T)__builtin_nanf("");
    if (top.at >= 0) {
      const T total = exponentials(x, a.V, top.value, p);
      y = window_sum(p, values, values + a.P, value_window(a, top.at)) / total;
    }
    *place_for(a.value_type, a.out, r, buffer) = y;
    write_elements(a.value_type, buffer, a.out, r, 1);
  }
}

// g_logits = g p (inside ? value - y : -y) of one row, p not yet normalised.
template <class T>
static void value_row_gradient(const TokenArgs& a, const T* p, Window w, T total, T g, T* to) {
  using V = typename Traits<T>::V;
  using I = typename Traits<T>::I;
  using L = decltype(I{}[0] + 0);
  constexpr int W = kLanes<T>;
  const T* const values = (const T*)a.table;
  const V y = splat(window_sum(p, values, values + a.P, w) / total), by = splat(g / total);
  for (int64_t j = 0; j < a.V; j += W) {
    const I here = lane_numbers(V{}) + (L)j;
    const V v = (I)(here >= (L)w.begin) & (I)(here < (L)w.end) ? load(values + j) : V{};
    store(to + j, by * load(p + j) * (v - y), a.V - j < W ? (int)(a.V - j) : W);
  }
}

template <class T>
static void value_rows_backward(const TokenArgs& a, int64_t begin, int64_t end, T* p, double* sums) {
  T *const buffer = p + padded(a.V + 16), *const g_buffer = buffer + padded(a.V + 16);
  for (int64_t r = begin; r < end; ++r) {
    const Elements<T> x = logits_of(a, r, buffer);
    T* const g_logits = place_for(a.type, a.g_logits, r * a.V, g_buffer);
    const Largest<T> top = largest_of(x, a.V);
    if (top.at < 0) {
      if (g_logits) {
        fill_nan(g_logits, a.V);
      }
      if (sums) {
        fill_nan(sums, a.V);
      }
    } else {
      const T total = exponentials(x, a.V, top.value, p);
      const T g = *read_elements<T>(a.value_type, a.g, r, 1, a.R, buffer).p;
      const Window w = value_window(a, top.at);
      if (g_logits) {
        value_row_gradient(a, p, w, total, g, g_logits);
      }
      const double by = (double)g / (double)total;
      for (int64_t j = w.begin; sums && j < w.end; ++j) {
        sums[j] += by * (double)p[j];
      }
    }
    write_elements(a.type, g_buffer, a.g_logits, r * a.V, a.V);
  }
}

}  // namespace

void windowed_value(const TokenArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.type == DType::f64 ? value_rows(a, begin, end, (double*)scratch) : value_rows(a, begin, end, (float*)scratch);
}

void windowed_value_backward(const TokenArgs& a, int64_t begin, int64_t end, void* scratch, double* sums) {
  a.type == DType::f64 ? value_rows_backward(a, begin, end, (double*)scratch, sums)
                       : value_rows_backward(a, begin, end, (float*)scratch, sums);
}

}  // namespace ORD_ISA
