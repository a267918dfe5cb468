#include "host/bins.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace ordkernels::host {

template <class F>
Bins<F>::Bins(const double* edges, int64_t count) : inner_(edges + 1, edges + count - 1) {
  const int64_t m = static_cast<int64_t>(inner_.size());
  cells_ = std::min(kMaxCells, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(2 * m + 8))));
  while (!(apart_ = count_edges()) && cells_ < kMaxCells) {
    cells_ *= 2;
  }
  for (int64_t c = 0; c < cells_; ++c) {
    first_[c + 1] += first_[c];
  }
  if (!apart_) {
    return;
  }
  grid_.resize(cells_);
  for (int64_t c = 0; c < cells_; ++c) {
    const bool has_edge = first_[c + 1] > first_[c];
    grid_[c] = {has_edge ? at_least(inner_[first_[c]]) : std::numeric_limits<F>::quiet_NaN(), first_[c]};
  }
}

template <class F>
bool Bins<F>::operator()(const F* __restrict x, int64_t n, uint32_t* __restrict bin) const {
  int32_t has_nan = 0;
  if (!apart_) {
    for (int64_t i = 0; i < n; ++i) {
      has_nan |= x[i] != x[i];
      bin[i] = search(x[i]);
    }
    return has_nan;
  }
  const F low = low_, scale = scale_, last = static_cast<F>(cells_ - 1);
  const Cell* grid = grid_.data();
  int32_t at[kBlock];  // first all cells, in vectors; then all look-ups
#pragma omp simd reduction(| : has_nan)
  for (int64_t i = 0; i < n; ++i) {
    has_nan |= x[i] != x[i];
    F t = (x[i] - low) * scale;
    t = t > 0 ? t : 0;
    at[i] = static_cast<int32_t>(t < last ? t : last);
  }
  int64_t i = 0;
  if constexpr (sizeof(Cell) == 8) {
    typedef int64_t Pair __attribute__((vector_size(16)));
    typedef int32_t Ints __attribute__((vector_size(16)));
    typedef float Floats __attribute__((vector_size(16)));
    for (; i + 4 <= n; i += 4) {
      Pair a, b;
      for (int l = 0; l < 2; ++l) {
        a[l] = std::bit_cast<int64_t>(grid[at[i + l]]);
        b[l] = std::bit_cast<int64_t>(grid[at[i + 2 + l]]);
      }
      const auto edge =
          std::bit_cast<Floats>(__builtin_shufflevector(std::bit_cast<Ints>(a), std::bit_cast<Ints>(b), 0, 2, 4, 6));
      const Ints before = __builtin_shufflevector(std::bit_cast<Ints>(a), std::bit_cast<Ints>(b), 1, 3, 5, 7);
      Floats v;
      std::memcpy(&v, x + i, sizeof v);
      const Ints found = before - (v >= edge);
      std::memcpy(bin + i, &found, sizeof found);
    }
  }
  for (; i < n; ++i) {
    bin[i] = grid[at[i]].before + (x[i] >= grid[at[i]].edge);
  }
  return has_nan;
}

// A number of F is at least `edge` if it is at least this one.
template <class F>
F Bins<F>::at_least(double edge) {
  const F f = static_cast<F>(edge);
  return f < edge ? std::nextafter(f, std::numeric_limits<F>::infinity()) : f;
}

// Never falls as x rises, which is all that is asked of it.
template <class F>
int32_t Bins<F>::cell(F x) const {
  const F t = (x - low_) * scale_, last = static_cast<F>(cells_ - 1);
  return static_cast<int32_t>(t > 0 ? std::min(t, last) : 0);
}

// first_[c + 1] = the edges in cell c; whether there is one at most in each.
template <class F>
bool Bins<F>::count_edges() {
  constexpr F kMax = std::numeric_limits<F>::max();
  low_ = scale_ = 0;
  if (inner_.size() > 1) {
    low_ = at_least(inner_.front());
    scale_ = static_cast<F>(cells_) / (at_least(inner_.back()) - low_);
    if (!(scale_ > 0 && scale_ <= kMax && std::fabs(low_) <= kMax)) {
      low_ = scale_ = 0;
    }
  }
  first_.assign(cells_ + 1, 0);
  for (double edge : inner_) {
    ++first_[cell(at_least(edge)) + 1];
  }
  return *std::max_element(first_.begin(), first_.end()) <= 1;
}

// The bin of x where the grid does not keep the edges apart: a binary search within its cell.
template <class F>
uint32_t Bins<F>::search(F x) const {
  const double number = x;
  const int32_t c = cell(x);
  uint32_t low = first_[c], high = first_[c + 1];
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    if (inner_[middle] <= number) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template class Bins<float>;
template class Bins<double>;

}  // namespace ordkernels::host
