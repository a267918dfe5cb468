// The second line of argument checks, after Python's: what a kernel needs not to read out of bounds. Small arrays that
// kernels trust as indices are copied first, for another thread may write to them once Python's lock is released.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/python.h"

namespace ordkernels::host {

using python::AnyArray;
using python::Array;

[[noreturn]] inline void fail(const std::string& name, const std::string& expected, const std::string& got) {
  throw python::ValueError(name + ": expected " + expected + ", got " + got);
}

inline std::string shape_text(const AnyArray& a) {
  std::string text = "[";
  for (int64_t i = 0; i < a.ndim(); ++i) {
    text += (i ? ", " : "") + std::to_string(a.shape(i));
  }
  return text + "]";
}

inline void check_vector(const char* name, const AnyArray& a, const char* shape) {
  if (a.ndim() != 1) {
    fail(name, std::string("shape ") + shape, shape_text(a));
  }
}

inline void check_shape(const char* name, const AnyArray& a, int64_t n) {
  if (a.ndim() != 1 || a.shape(0) != n) {
    fail(name, "shape [N] = [" + std::to_string(n) + "]", shape_text(a));
  }
}

template <class T>
std::vector<T> copy(const Array<T>& a) {
  return std::vector<T>(a.data(), a.data() + a.size());
}

// offsets [G+1] from 0 to n without a step down.
inline std::vector<int64_t> checked_offsets(const Array<int64_t>& array, int64_t n) {
  if (array.ndim() != 1 || array.size() < 1) {
    fail("offsets", "shape [G+1]", shape_text(array));
  }
  std::vector<int64_t> offsets = copy(array);
  bool rising = true;
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    rising &= offsets[g] <= offsets[g + 1];
  }
  if (!rising || offsets.front() != 0 || offsets.back() != n) {
    fail("offsets", "rising from 0 to N = " + std::to_string(n), "others");
  }
  return offsets;
}

// levels [L] in [0, 1].
inline std::vector<double> checked_levels(const Array<double>& array) {
  check_vector("levels", array, "[L]");
  std::vector<double> levels = copy(array);
  for (size_t l = 0; l < levels.size(); ++l) {
    if (!(levels[l] >= 0 && levels[l] <= 1)) {
      fail("levels", "numbers in [0, 1]", std::to_string(levels[l]) + " at index " + std::to_string(l));
    }
  }
  return levels;
}

}  // namespace ordkernels::host
