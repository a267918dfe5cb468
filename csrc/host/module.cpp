// The module `_host`: data-side kernels on NumPy arrays, without torch.
//
// All of Python is here and in python.h: arrays are checked, and plain pointers handed to the kernels with Python's
// lock released. Each kernel lies in files of its own, which compile in a fraction of the time.
#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "host/array_checks.h"
#include "host/errors.h"
#include "host/histogram_counts.h"
#include "host/histogram_jsd.h"
#include "host/history_quantiles.h"
#include "host/joint_counts.h"
#include "host/label_units.h"
#include "host/leave_one_out_quantiles.h"
#include "host/segment_quantiles.h"
#include "host/srcc.h"
#include "host/vocabulary_encode.h"
#include "host/vocabulary_fit.h"
#include "host/xauc.h"

namespace {

namespace host = ordkernels::host;
namespace py = host::python;
using host::Array;
using host::check_shape;
using host::check_vector;
using host::fail;

template <class T>
std::span<const T> span(const Array<T>& a) {
  return {a.data(), static_cast<size_t>(a.size())};
}

template <class T>
int64_t length(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size());
}

// What `kernel` returns, run without Python's lock.
template <class Kernel>
auto unlocked(const Kernel& kernel) {
  const py::Unlocked released;
  return kernel();
}

// ---- quantiles

template <class F>
Array<F> segment_quantiles(const Array<F>& values, const Array<int64_t>& offsets_, const Array<double>& levels_,
                           int threads) {
  const auto offsets = host::checked_offsets(offsets_, values.size());
  const auto levels = host::checked_levels(levels_);
  Array<F> out({length(offsets) - 1, length(levels)});
  F* to = out.mutable_data();
  unlocked([&] { host::segment_quantiles<F>(span(values), offsets, levels, threads, to); });
  return out;
}

template <class F>
Array<F> leave_one_out_quantiles(const Array<F>& values, const Array<int64_t>& offsets_, const Array<double>& levels_,
                                 int threads) {
  const auto offsets = host::checked_offsets(offsets_, values.size());
  const auto levels = host::checked_levels(levels_);
  Array<F> out({values.size(), length(levels)});
  F* to = out.mutable_data();
  unlocked([&] { host::leave_one_out_quantiles<F>(span(values), offsets, levels, threads, to); });
  return out;
}

// time: int64 or float64.
template <class F>
Array<F> history_quantiles(const Array<F>& values, const Array<int64_t>& group,
                           const std::variant<Array<int64_t>, Array<double>>& time, const Array<double>& levels_,
                           int64_t min_events, int threads) {
  const int64_t n = values.size();
  check_shape("group", group, n);
  std::visit([&](const auto& t) { check_shape("time", t, n); }, time);
  const auto levels = host::checked_levels(levels_);
  Array<F> out({n, length(levels)});
  F* to = out.mutable_data();
  const auto times = std::visit([](const auto& t) -> host::EventTimes { return span(t); }, time);
  unlocked([&] { host::history_quantiles<F>(span(values), group.data(), times, levels, min_events, threads, to); });
  return out;
}

// ---- scores that are sums over rows

py::Object as_tuple(const host::ScaledSum& sum) { return py::make_tuple(sum.value, sum.exponent); }

// (sum |y - p|, sum (y - p)^2, rows with |y - p| <= theta), a sum as (value, exponent of 2)
template <class F>
py::Object errors(const Array<F>& y, const Array<F>& p, double theta, int threads) {
  check_shape("y", y, y.size());
  check_shape("prediction", p, y.size());
  const auto e = unlocked([&] { return host::errors<F>(span(y), p.data(), theta, threads); });
  return py::make_tuple(as_tuple(e.absolute), as_tuple(e.squared), e.within);
}

// (means of y and p less their first rows, yy, pp, yp, exponents of 2 that y and p are divided by)
template <class F>
py::Object moments(const Array<F>& y, const Array<F>& p, int threads) {
  check_shape("y", y, y.size());
  check_shape("prediction", p, y.size());
  const auto m = unlocked([&] { return host::moments<F>(span(y), p.data(), threads); });
  return py::make_tuple(m.v[0], m.v[1], m.v[2], m.v[3], m.v[4], m.exponents[0], m.exponents[1]);
}

// (rows with lower <= y <= upper, sum of upper - lower as (value, exponent of 2), the first row with lower > upper or
// -1)
template <class F>
py::Object coverage(const Array<F>& lower, const Array<F>& upper, const Array<F>& y, int threads) {
  const int64_t n = lower.size();
  check_shape("lower", lower, n);
  check_shape("upper", upper, n);
  check_shape("y", y, n);
  const auto c = unlocked([&] { return host::coverage<F>(span(lower), upper.data(), y.data(), threads); });
  return py::make_tuple(c.inside, as_tuple(c.width), c.crossed);
}

// ---- scores of the order of rows

host::Column column(const char* name, const py::AnyArray& a, int64_t n) {
  using host::ColumnType;
  check_shape(name, a, n);
  const char kind = a.kind();
  const auto size = a.itemsize();
  if ((kind != 'f' && kind != 'i') || (size != 4 && size != 8)) {
    fail(name, "float32, float64, int32 or int64", a.dtype());
  }
  const ColumnType type = kind == 'f' ? (size == 4 ? ColumnType::kFloat32 : ColumnType::kFloat64)
                                      : (size == 4 ? ColumnType::kInt32 : ColumnType::kInt64);
  return {a.data(), type};
}

// Of rows, or null where there are none.
using Weights = std::optional<Array<double>>;
const double* weights(const Weights& w, int64_t n) {
  if (!w) {
    return nullptr;
  }
  check_shape("weight", *w, n);
  return w->data();
}

// (concordant, tied in the prediction, pairs of different y, pairs tied in both); reference: concordant by its rule for
// ties.
py::Object xauc_counts(const py::AnyArray& y_, const py::AnyArray& p_, const Weights& w_, bool reference, int threads) {
  const int64_t n = y_.size();
  const host::Column y = column("y", y_, n), p = column("prediction", p_, n);
  if (w_ && reference) {
    fail("weight", "None with the reference's rule for ties", "an array");
  }
  const double* w = weights(w_, n);
  const host::AnyPairCount count = unlocked([&]() -> host::AnyPairCount {
    if (reference) {
      return host::xauc_reference_counts(y, p, n, threads);
    }
    return host::xauc_counts(y, p, w, n, threads);
  });
  return std::visit(
      [](const auto& c) -> py::Object { return py::make_tuple(c.concordant, c.tied, c.pairs, c.tied_both); }, count);
}

// (concordant, tied, pairs, tied in both) over all groups; then of the groups with a pair: how many, the sums of
// concordant / pairs and tied / pairs.
py::Object xauc_groups(const py::AnyArray& y_, const py::AnyArray& p_, const Weights& w_, const Array<int64_t>& group,
                       int threads) {
  const int64_t n = y_.size();
  const host::Column y = column("y", y_, n), p = column("prediction", p_, n);
  check_shape("group", group, n);
  const double* w = weights(w_, n);
  const auto count = unlocked([&] { return host::xauc_groups(y, p, w, group.data(), n, threads); });
  return std::visit(
      [](const auto& c) -> py::Object {
        return py::make_tuple(c.pairs.concordant, c.pairs.tied, c.pairs.pairs, c.pairs.tied_both, c.groups,
                              c.concordant, c.tied);
      },
      count);
}

double srcc(const py::AnyArray& y_, const py::AnyArray& p_, int threads) {
  const int64_t n = y_.size();
  const host::Column y = column("y", y_, n), p = column("prediction", p_, n);
  return unlocked([&] { return host::srcc(y, p, n, threads); });
}

// ---- histograms

template <class F>
host::Bins<F> bins(const Array<double>& edges) {
  if (edges.ndim() != 1 || edges.size() < 2) {
    fail("edges", "shape [M+1], M at least 1", host::shape_text(edges));
  }
  if (edges.size() > int64_t(1) << 20) {
    fail("edges", "at most 2^20", std::to_string(edges.size()));
  }
  return host::Bins<F>(edges.data(), edges.size());
}

template <class F>
host::HistogramRows<F> histogram_rows(const Array<F>& y, const Array<F>& p, const Array<int64_t>& group) {
  const int64_t n = y.size();
  check_shape("y", y, n);
  check_shape("prediction", p, n);
  check_shape("group", group, n);
  if (n >= int64_t(1) << 32) {
    fail("y", "fewer than 2^32 rows", std::to_string(n));
  }
  return {y.data(), p.data(), group.data(), n};
}

void check_outcome(host::HistogramOutcome outcome, int64_t edges) {
  if (outcome == host::HistogramOutcome::kTooManyBins) {
    fail("edges", "fewer, for so many groups", std::to_string(edges));
  }
  if (outcome == host::HistogramOutcome::kTooManyGroups) {
    fail("group", "at most 2^31 groups", "more");
  }
}

// (sum over groups of the divergence in nats, NaN if a number is; groups)
template <class F>
py::Object histogram_jsd(const Array<F>& y, const Array<F>& p, const Array<int64_t>& group, const Array<double>& edges,
                         int threads) {
  const auto rows = histogram_rows(y, p, group);
  const auto bins_ = bins<F>(edges);
  host::DivergenceSum total;
  const auto outcome = unlocked([&] { return host::histogram_jsd(rows, bins_, threads, total); });
  check_outcome(outcome, edges.size());
  const bool has_nan = outcome == host::HistogramOutcome::kHasNaN;
  return py::make_tuple(has_nan ? std::numeric_limits<double>::quiet_NaN() : total.sum, total.groups);
}

// (ids [G] rising, counts [G, 2, M])
template <class F>
py::Object histogram_counts(const Array<F>& y, const Array<F>& p, const Array<int64_t>& group,
                            const Array<double>& edges, int threads) {
  const auto rows = histogram_rows(y, p, group);
  const auto bins_ = bins<F>(edges);
  std::vector<host::HistogramPart> parts;
  check_outcome(unlocked([&] { return host::histogram_counts(rows, bins_, threads, parts); }), edges.size());
  int64_t G = 0;
  for (const auto& part : parts) {
    G += static_cast<int64_t>(part.ids.size());
  }
  Array<int64_t> ids({G}), counts({G, int64_t(2), bins_.size()});
  int64_t *id = ids.mutable_data(), *count = counts.mutable_data();
  for (const auto& part : parts) {
    id = std::copy(part.ids.begin(), part.ids.end(), id);
    count = std::copy(part.counts.begin(), part.counts.end(), count);
  }
  return py::make_tuple(ids, counts);
}

// counts [A, B] += 1 at the bins of each row.
template <class F>
void joint_counts(const Array<F>& y, const Array<F>& p, const Array<double>& y_edges, const Array<double>& p_edges,
                  py::OutputArray<int64_t>& counts, int threads) {
  const int64_t n = y.size();
  check_shape("y", y, n);
  check_shape("prediction", p, n);
  const auto y_bins = bins<F>(y_edges), p_bins = bins<F>(p_edges);
  if (counts.ndim() != 2 || counts.shape(0) != y_bins.size() || counts.shape(1) != p_bins.size()) {
    fail("counts", "shape [A, B], as the edges", host::shape_text(counts));
  }
  int64_t* to = counts.mutable_data();
  unlocked([&] { host::joint_counts(y.data(), p.data(), n, y_bins, p_bins, threads, to); });
}

// ---- vocabulary

void check_labels(const Array<int64_t>& labels) {
  check_vector("labels", labels, "[N]");
  int64_t least = 0, greatest = 0;
  for (int64_t y : span(labels)) {
    least = std::min(least, y);
    greatest = std::max(greatest, y);
  }
  if (least < 0 || greatest > host::kMaxLabel) {
    fail("labels", "0 to 2^53", std::to_string(least < 0 ? least : greatest));
  }
}

host::Encoder encoder(const Array<int64_t>& array, double tolerance) {
  check_vector("values", array, "[V]");
  const auto values = host::copy(array);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 1 || (i && values[i] >= values[i - 1])) {
      fail("values", "falling, from 1 up", "others");
    }
  }
  if (!(tolerance >= 0 && tolerance < 1)) {
    fail("tolerance", "in [0, 1)", std::to_string(tolerance));
  }
  return {host::ValueFinder(values.data(), static_cast<int64_t>(values.size())), tolerance};
}

// (whole [N], index of the first that is no label or -1)
template <class F>
py::Object to_units(const Array<F>& labels, double scale, double slack, int threads) {
  check_vector("labels", labels, "[N]");
  Array<int64_t> out({labels.size()});
  int64_t* to = out.mutable_data();
  const int64_t bad = unlocked([&] { return host::to_units<F>(span(labels), scale, slack, threads, to); });
  return py::make_tuple(out, bad);
}

Array<int64_t> vocabulary_fit(const Array<int64_t>& labels, double q_start, double q_end, double alpha, double epsilon,
                              int threads) {
  check_labels(labels);
  const int64_t n = labels.size();
  if (n < 1 || n >= (int64_t(1) << 32)) {
    fail("labels", "from 1 to 2^32 - 1 of them", std::to_string(n));
  }
  const host::VocabularyFit options{q_start, q_end, alpha, epsilon};
  const auto values = unlocked([&] { return host::vocabulary_fit(span(labels), options, threads, py::check_signals); });
  return Array<int64_t>(values);
}

// (tokens [N, T], lengths [N], remainders [N], whether all fit)
template <class I>
py::Object encode_as(const Array<int64_t>& labels, const host::Encoder& encoder, int64_t T, int threads) {
  const int64_t n = labels.size();
  Array<I> tokens({n, T});
  Array<int32_t> lengths({n});
  Array<int64_t> remainders({n});
  const host::Encoded<I> out{tokens.mutable_data(), lengths.mutable_data(), remainders.mutable_data()};
  const bool fits = unlocked([&] { return host::vocabulary_encode(span(labels), encoder, T, threads, out); });
  return py::make_tuple(tokens, lengths, remainders, fits);
}

py::Object vocabulary_encode(const Array<int64_t>& labels, const Array<int64_t>& values, double tolerance, int64_t T,
                             int threads) {
  check_labels(labels);
  const auto encoder_ = encoder(values, tolerance);
  if (T < 1 || T > INT32_MAX) {
    fail("T", "at least 1", std::to_string(T));
  }
  const bool narrow = encoder_.find.size() + host::kFirstValueToken <= INT16_MAX;
  return narrow ? encode_as<int16_t>(labels, encoder_, T, threads) : encode_as<int32_t>(labels, encoder_, T, threads);
}

// (how often each value is used [V], lengths [N], remainders [N])
py::Object vocabulary_usage(const Array<int64_t>& labels, const Array<int64_t>& values, double tolerance, int threads) {
  check_labels(labels);
  const auto encoder_ = encoder(values, tolerance);
  Array<int64_t> lengths({labels.size()}), remainders({labels.size()});
  int64_t *length = lengths.mutable_data(), *remainder = remainders.mutable_data();
  const auto counts =
      unlocked([&] { return host::vocabulary_usage(span(labels), encoder_, threads, length, remainder); });
  return py::make_tuple(Array<int64_t>(counts), lengths, remainders);
}

// Of both floating types.
#define ORD_OF_FLOATS(function) py::method<&function<float>, &function<double>>(#function)

PyMethodDef methods[] = {
    ORD_OF_FLOATS(segment_quantiles),
    ORD_OF_FLOATS(leave_one_out_quantiles),
    ORD_OF_FLOATS(history_quantiles),
    ORD_OF_FLOATS(errors),
    ORD_OF_FLOATS(moments),
    ORD_OF_FLOATS(coverage),
    ORD_OF_FLOATS(histogram_jsd),
    ORD_OF_FLOATS(histogram_counts),
    ORD_OF_FLOATS(joint_counts),
    ORD_OF_FLOATS(to_units),
    py::method<&xauc_counts>("xauc_counts"),
    py::method<&xauc_groups>("xauc_groups"),
    py::method<&srcc>("srcc"),
    py::method<&vocabulary_fit>("vocabulary_fit"),
    py::method<&vocabulary_encode>("vocabulary_encode"),
    py::method<&vocabulary_usage>("vocabulary_usage"),
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_host",
    "Data-side kernels of ordkernels on NumPy arrays. Use ordkernels.quantiles, .scores and .vocabulary; these "
    "functions "
    "check less.",
    -1,
    methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__host() { return PyModule_Create(&definition); }
