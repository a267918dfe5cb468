// The second line of argument checks, after Python's: what a kernel needs not to read out of bounds.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace ordkernels::host {

[[noreturn]] inline void fail(const std::string& name, const std::string& expected, const std::string& got) {
  throw pybind11::value_error(name + ": expected " + expected + ", got " + got);
}

inline std::string shape_text(const pybind11::array& a) {
  std::string text = "[";
  for (pybind11::ssize_t i = 0; i < a.ndim(); ++i) {
    text += (i ? ", " : "") + std::to_string(a.shape(i));
  }
  return text + "]";
}

inline void check_shape(const std::string& name, const pybind11::array& a, const std::string& letters, int64_t size) {
  if (a.ndim() != 1 || a.shape(0) != size) {
    fail(name, "shape [" + letters + "] = [" + std::to_string(size) + "]", shape_text(a));
  }
}

// offsets [G+1] from 0 to n without a step down.
inline void check_groups(const pybind11::array_t<int64_t>& offsets, int64_t n) {
  if (offsets.ndim() != 1 || offsets.size() < 1) {
    fail("offsets", "shape [G+1]", shape_text(offsets));
  }
  const int64_t *o = offsets.data(), groups = offsets.size() - 1;
  bool rising = true;
  for (int64_t g = 0; g < groups; ++g) {
    rising &= o[g] <= o[g + 1];
  }
  if (!rising || o[0] != 0 || o[groups] != n) {
    fail("offsets", "rising from 0 to N = " + std::to_string(n), "others");
  }
}

// levels [L] in [0, 1].
inline void check_levels(const pybind11::array_t<double>& levels) {
  if (levels.ndim() != 1) {
    fail("levels", "shape [L]", shape_text(levels));
  }
  for (pybind11::ssize_t l = 0; l < levels.size(); ++l) {
    if (!(levels.data()[l] >= 0 && levels.data()[l] <= 1)) {
      fail("levels", "numbers in [0, 1]", std::to_string(levels.data()[l]) + " at index " + std::to_string(l));
    }
  }
}

}  // namespace ordkernels::host
