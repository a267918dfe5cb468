// Binds the vocabulary's construction and greedy encoding.
#include "host/vocabulary.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <cmath>

#include "host/checks.h"

namespace ordkernels::host {

namespace {

namespace py = pybind11;
using Ints = py::array_t<int64_t, py::array::c_style>;
constexpr int64_t kMost = int64_t(1) << 53;  // labels that a double holds

void check_labels(const Ints& labels) {
  if (labels.ndim() != 1) {
    fail("labels", "shape [N]", shape_text(labels));
  }
  const int64_t* y = labels.data();
  int64_t low = 0, high = 0;
  for (py::ssize_t i = 0; i < labels.size(); ++i) {
    low = std::min(low, y[i]), high = std::max(high, y[i]);
  }
  if (low < 0 || high > kMost) {
    fail("labels", "0 to 2^53", std::to_string(low < 0 ? low : high));
  }
}

vocabulary::Finder finder(const Ints& values, double tolerance) {
  if (values.ndim() != 1) {
    fail("values", "shape [V]", shape_text(values));
  }
  for (py::ssize_t i = 0; i < values.size(); ++i) {
    if (values.data()[i] < 1 || (i && values.data()[i] >= values.data()[i - 1])) {
      fail("values", "falling, from 1 up", "others");
    }
  }
  if (!(tolerance >= 0 && tolerance < 1)) {
    fail("tolerance", "in [0, 1)", std::to_string(tolerance));
  }
  return vocabulary::Finder(values.data(), values.size());
}

// floats [N] times `scale`, to the nearest whole number: (whole [N], index of the first that is no label or -1).
// `slack` is how far from whole a product may be.
template <class F>
py::tuple to_units(const py::array_t<F, py::array::c_style>& labels, double scale, double slack, int threads) {
  if (labels.ndim() != 1) {
    fail("labels", "shape [N]", shape_text(labels));
  }
  const int64_t n = labels.size();
  Ints out(n);
  const F* from = labels.data();
  int64_t* to = out.mutable_data();
  std::atomic<int64_t> bad{n};
  {
    py::gil_scoped_release release;
    parallel_for((n + vocabulary::kChunk - 1) / vocabulary::kChunk, threads, [&](int64_t c) {
      for (int64_t i = c * vocabulary::kChunk, end = std::min(n, (c + 1) * vocabulary::kChunk); i < end; ++i) {
        const double x = static_cast<double>(from[i]) * scale;
        const bool ok = x >= 0 && x <= static_cast<double>(kMost);
        const double whole = ok ? std::nearbyint(x) : 0;
        to[i] = static_cast<int64_t>(whole);
        if (ok && std::fabs(x - whole) <= slack) {
          continue;
        }
        for (int64_t seen = bad; i < seen && !bad.compare_exchange_weak(seen, i);) {
        }
      }
    });
  }
  return py::make_tuple(out, bad == n ? -1 : bad.load());
}

Ints fit(const Ints& labels, double q_start, double q_end, double alpha, double epsilon, int threads) {
  check_labels(labels);
  const int64_t n = labels.size();
  if (n < 1 || n >= (int64_t(1) << 32)) {
    fail("labels", "from 1 to 2^32 - 1 of them", std::to_string(n));
  }
  const int64_t* y = labels.data();
  std::vector<int64_t> tokens;
  {
    py::gil_scoped_release release;
    tokens = vocabulary::fit(y, n, q_start, q_end, alpha, epsilon, threads, [] {
      py::gil_scoped_acquire hold;
      if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
      }
    });
  }
  return Ints(static_cast<py::ssize_t>(tokens.size()), tokens.data());
}

template <class I>
py::tuple encode_as(const Ints& labels, const vocabulary::Finder& find, double tolerance, int64_t T, int threads) {
  const int64_t n = labels.size();
  py::array_t<I> tokens({n, T});
  py::array_t<int32_t> lengths(n);
  Ints residual(n);
  const int64_t* y = labels.data();
  I* to = tokens.mutable_data();
  int32_t* length = lengths.mutable_data();
  int64_t* rest = residual.mutable_data();
  bool fits;
  {
    py::gil_scoped_release release;
    fits = vocabulary::encode(y, n, find, tolerance, T, to, length, rest, threads);
  }
  return py::make_tuple(tokens, lengths, residual, fits);
}

py::tuple encode(const Ints& labels, const Ints& values, double tolerance, int64_t T, int threads) {
  check_labels(labels);
  const auto find = finder(values, tolerance);
  if (T < 1 || T > INT32_MAX) {
    fail("T", "at least 1", std::to_string(T));
  }
  if (find.size() + vocabulary::kFirst <= INT16_MAX) {
    return encode_as<int16_t>(labels, find, tolerance, T, threads);
  }
  return encode_as<int32_t>(labels, find, tolerance, T, threads);
}

py::tuple usage(const Ints& labels, const Ints& values, double tolerance, int threads) {
  check_labels(labels);
  const auto find = finder(values, tolerance);
  const int64_t n = labels.size();
  Ints lengths(n), residual(n);
  const int64_t* y = labels.data();
  int64_t *length = lengths.mutable_data(), *rest = residual.mutable_data();
  std::vector<int64_t> counts;
  {
    py::gil_scoped_release release;
    counts = vocabulary::usage(y, n, find, tolerance, length, rest, threads);
  }
  return py::make_tuple(Ints(static_cast<py::ssize_t>(counts.size()), counts.data()), lengths, residual);
}

}  // namespace

void bind_vocabulary(py::module_& m) {
  m.def("to_units", &to_units<float>, py::arg("labels").noconvert(), py::arg("scale"), py::arg("slack"),
        py::arg("threads"));
  m.def("to_units", &to_units<double>, py::arg("labels").noconvert(), py::arg("scale"), py::arg("slack"),
        py::arg("threads"));
  m.def("vocabulary_fit", &fit);
  m.def("vocabulary_encode", &encode);
  m.def("vocabulary_usage", &usage);
}

}  // namespace ordkernels::host
