// Widths as the ops of increments take them.
#pragma once
#include "kernels/increments.h"
#include "row_launch.h"

namespace increments {

template <class T>
Widths<T> widths_of(const Tensor& w) {
  return {in<T>(w), w.dim() == 1};
}
inline Tensor checked_widths(const Tensor& w, ScalarType type, int64_t B, int64_t K) {
  return w.dim() == 1 ? checked_contiguous("widths", w, type, {K}) : checked_contiguous("widths", w, type, {B, K});
}
}  // namespace increments
