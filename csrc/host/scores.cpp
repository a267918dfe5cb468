// Scores that are sums over rows, in one pass. Rows are summed in blocks of a fixed size, the blocks in a fixed tree:
// no result depends on the number of threads, and rounding grows with the logarithm of N.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/isa.h"
#include "host/checks.h"
#include "host/parallel.h"

#define ORD_ISA base
#define ORD_TARGET
#include "host/scores_lanes.h"
#undef ORD_ISA
#undef ORD_TARGET
#define ORD_ISA avx2
#define ORD_TARGET __attribute__((target("avx2")))
#include "host/scores_lanes.h"
#undef ORD_ISA
#undef ORD_TARGET

namespace ordkernels::host {

namespace {

namespace py = pybind11;

template <class F>
using array = py::array_t<F, py::array::c_style>;

constexpr int64_t kBlock = 1024, kUnit = 64;  // rows in a block, blocks in a unit of work

// The blocks' parts, merged in pairs: neighbours first.
template <class T, class Merge>
T tree(std::vector<T> parts, const Merge& merge) {
  for (size_t step = 1; step < parts.size(); step *= 2) {
    for (size_t i = 0; i + step < parts.size(); i += 2 * step) {
      merge(parts[i], parts[i + step]);
    }
  }
  return parts.empty() ? T{} : parts[0];
}

template <class T, class Body>
std::vector<T> over_blocks(int64_t n, int threads, const Body& body) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<T> parts(blocks);
  parallel_for((blocks + kUnit - 1) / kUnit, threads, [&](int64_t u) {
    for (int64_t b = u * kUnit; b < std::min(blocks, (u + 1) * kUnit); ++b) {
      parts[b] = body(b * kBlock, std::min(kBlock, n - b * kBlock));
    }
  });
  return parts;
}

struct Errors {
  double sums[2] = {};  // of |y - p| and of (y - p)^2
  int64_t within = 0;
};

// (sum |y - p|, sum (y - p)^2, rows with |y - p| <= theta)
template <class F>
py::tuple errors(const array<F>& y, const array<F>& p, double theta, int threads) {
  const int64_t n = y.size();
  check_shape("y", y, "N", n);
  check_shape("prediction", p, "N", n);
  const F *from = y.data(), *to = p.data();
  Errors all;
  {
    py::gil_scoped_release release;
    all = tree(
        over_blocks<Errors>(n, threads,
                            [&](int64_t i, int64_t m) {
                              Errors e;
                              isa() == Isa::base ? base::block_errors(from + i, to + i, m, theta, e.sums, &e.within)
                                                 : avx2::block_errors(from + i, to + i, m, theta, e.sums, &e.within);
                              return e;
                            }),
        [](Errors& a, const Errors& b) { a.sums[0] += b.sums[0], a.sums[1] += b.sums[1], a.within += b.within; });
  }
  return py::make_tuple(all.sums[0], all.sums[1], all.within);
}

struct Moments {
  double n = 0, v[5] = {};  // means of y and p; sums of squares and products about them: yy, pp, yp
};

// (n, mean y, mean p, yy, pp, yp); blocks are merged by Chan, Golub and LeVeque's formula.
template <class F>
py::tuple moments(const array<F>& y, const array<F>& p, int threads) {
  const int64_t n = y.size();
  check_shape("y", y, "N", n);
  check_shape("prediction", p, "N", n);
  const F *from = y.data(), *to = p.data();
  Moments all;
  {
    py::gil_scoped_release release;
    all = tree(over_blocks<Moments>(n, threads,
                                    [&](int64_t i, int64_t m) {
                                      Moments e;
                                      e.n = static_cast<double>(m);
                                      isa() == Isa::base ? base::block_moments(from + i, to + i, m, e.v)
                                                         : avx2::block_moments(from + i, to + i, m, e.v);
                                      return e;
                                    }),
               [](Moments& a, const Moments& b) {
                 const double sum = a.n + b.n, dy = b.v[0] - a.v[0], dp = b.v[1] - a.v[1], share = a.n * b.n / sum;
                 a.v[0] += dy * b.n / sum;
                 a.v[1] += dp * b.n / sum;
                 a.v[2] += b.v[2] + dy * dy * share;
                 a.v[3] += b.v[3] + dp * dp * share;
                 a.v[4] += b.v[4] + dy * dp * share;
                 a.n = sum;
               });
  }
  return py::make_tuple(all.n, all.v[0], all.v[1], all.v[2], all.v[3], all.v[4]);
}

struct Cover {
  int64_t inside = 0, crossed = std::numeric_limits<int64_t>::max();
  double width = 0;
};

// (rows with lower <= y <= upper, sum of upper - lower, the first row with lower > upper or -1)
template <class F>
py::tuple coverage(const array<F>& lower, const array<F>& upper, const array<F>& y, int threads) {
  const int64_t n = lower.size();
  check_shape("lower", lower, "N", n);
  check_shape("upper", upper, "N", n);
  check_shape("y", y, "N", n);
  const F *a = lower.data(), *b = upper.data(), *x = y.data();
  Cover all;
  {
    py::gil_scoped_release release;
    all = tree(over_blocks<Cover>(n, threads,
                                  [&](int64_t i, int64_t m) {
                                    Cover c;
                                    for (int64_t r = i; r < i + m; ++r) {
                                      c.inside += (a[r] <= x[r]) & (x[r] <= b[r]);
                                      c.width += static_cast<double>(b[r]) - static_cast<double>(a[r]);
                                      if (a[r] > b[r]) [[unlikely]] {
                                        c.crossed = std::min(c.crossed, r);
                                      }
                                    }
                                    return c;
                                  }),
               [](Cover& s, const Cover& o) {
                 s.inside += o.inside, s.width += o.width, s.crossed = std::min(s.crossed, o.crossed);
               });
  }
  return py::make_tuple(all.inside, all.width, all.crossed == std::numeric_limits<int64_t>::max() ? -1 : all.crossed);
}

template <class F>
void bind(py::module_& m) {
  using py::arg;
  m.def("errors", &errors<F>, arg("y").noconvert(), arg("prediction").noconvert(), arg("theta"), arg("num_threads"));
  m.def("moments", &moments<F>, arg("y").noconvert(), arg("prediction").noconvert(), arg("num_threads"));
  m.def("coverage", &coverage<F>, arg("lower").noconvert(), arg("upper").noconvert(), arg("y").noconvert(),
        arg("num_threads"));
}

}  // namespace

void bind_scores(py::module_& m) {
  bind<float>(m);
  bind<double>(m);
}

}  // namespace ordkernels::host
