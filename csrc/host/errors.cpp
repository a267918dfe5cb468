// Rows are summed in blocks of a fixed size, the blocks in a fixed tree: rounding grows with the logarithm of N.
#include "host/errors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "host/parallel.h"

#define ORD_LOOPS "host/error_loops.h"
#define ORD_WITHOUT_AVX512
#include "host/per_isa.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kBlock = 1024, kUnit = 64;  // rows in a block, blocks in a unit of work

// body(first row, rows) -> T of every block; merge(a, b) adds b to a, neighbours first.
template <class T, class Body, class Merge>
T sum_blocks(int64_t n, int threads, const Body& body, const Merge& merge) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<T> parts(blocks);
  parallel_for((blocks + kUnit - 1) / kUnit, threads, [&](int64_t u) {
    for (int64_t b = u * kUnit; b < std::min(blocks, (u + 1) * kUnit); ++b) {
      parts[b] = body(b * kBlock, std::min(kBlock, n - b * kBlock));
    }
  });
  for (int64_t step = 1; step < blocks; step *= 2) {
    for (int64_t i = 0; i + step < blocks; i += 2 * step) {
      merge(parts[i], parts[i + step]);
    }
  }
  return parts.empty() ? T{} : parts[0];
}

struct FastErrors {
  double sums[2] = {};
  int64_t within = 0;
};

template <class F>
FastErrors fast_errors(std::span<const F> y, const F* p, double theta, int threads) {
  const auto of_block = [&](int64_t i, int64_t m) {
    FastErrors e;
    const auto loop = isa() == Isa::base ? base::block_errors<F> : avx2::block_errors<F>;
    loop(y.data() + i, p + i, m, theta, e.sums, &e.within);
    return e;
  };
  return sum_blocks<FastErrors>(static_cast<int64_t>(y.size()), threads, of_block,
                                [](FastErrors& a, const FastErrors& b) {
                                  a.sums[0] += b.sums[0];
                                  a.sums[1] += b.sums[1];
                                  a.within += b.within;
                                });
}

// a - b times 2^-exponent, up to 1 in magnitude, for rows of any magnitude. Every operation but the difference is
// exact, or rounds what is too small beside the largest to count.
template <class A, class B>
class ScaledDifferences {
 public:
  // a(i), b(i) of n rows
  ScaledDifferences(int64_t n, int threads, A a, B b) : a_(std::move(a)), b_(std::move(b)) {
    double largest = largest_of(n, threads);
    if (!(largest <= std::numeric_limits<double>::max())) {
      halving_ = 0.5;
      largest = largest_of(n, threads);
    }
    int e = 0;
    std::frexp(largest, &e);
    exponent_ = e + (halving_ < 1);
    scale_[0] = std::ldexp(1.0, -e / 2);  // 2^-e itself may be out of range
    scale_[1] = std::ldexp(1.0, -e - -e / 2);
  }

  int exponent() const { return exponent_; }
  double operator()(int64_t i) const { return difference(i) * scale_[0] * scale_[1]; }

 private:
  double difference(int64_t i) const { return a_(i) * halving_ - b_(i) * halving_; }

  double largest_of(int64_t n, int threads) const {
    const auto of_block = [&](int64_t i, int64_t m) {
      double largest = 0;
      for (int64_t r = i; r < i + m; ++r) {
        largest = std::max(largest, std::fabs(difference(r)));
      }
      return largest;
    };
    return sum_blocks<double>(n, threads, of_block, [](double& a, double b) { a = std::max(a, b); });
  }

  const A a_;
  const B b_;
  double halving_ = 1, scale_[2];
  int exponent_;
};

// Row i -> x[i].
template <class F>
auto of(const F* x) {
  return [x](int64_t i) { return static_cast<double>(x[i]); };
}

// The sums of |y - p| and (y - p)^2 by way of scaled differences.
template <class F>
void add_scaled_errors(std::span<const F> y, const F* p, int threads, Errors& to) {
  const auto n = static_cast<int64_t>(y.size());
  const ScaledDifferences d(n, threads, of(y.data()), of(p));
  const double zeros[kBlock] = {};
  const auto of_block = [&](int64_t i, int64_t m) {
    double scaled[kBlock];
    for (int64_t r = 0; r < m; ++r) {
      scaled[r] = d(i + r);
    }
    FastErrors e;
    base::block_errors<double>(scaled, zeros, m, 0, e.sums, &e.within);
    return e;
  };
  const auto e = sum_blocks<FastErrors>(n, threads, of_block, [](FastErrors& a, const FastErrors& b) {
    a.sums[0] += b.sums[0];
    a.sums[1] += b.sums[1];
  });
  to.absolute = {e.sums[0], d.exponent()};
  to.squared = {e.sums[1], 2 * d.exponent()};
}

// Within these no square has overflowed, or vanished to the sum's cost, and sums of chunks can be added up.
constexpr double kLargest = 0x1p800, kLeast = 0x1p-800;

bool is_ordinary(double sum_of_squares) { return kLeast < sum_of_squares && sum_of_squares < kLargest; }

// Blocks are merged by the formula of Chan, Golub and LeVeque.
void merge(Moments& a, const Moments& b) {
  const double sum = a.n + b.n, dy = b.v[0] - a.v[0], dp = b.v[1] - a.v[1], share = a.n * b.n / sum;
  a.v[0] += dy * b.n / sum;
  a.v[1] += dp * b.n / sum;
  a.v[2] += b.v[2] + dy * dy * share;
  a.v[3] += b.v[3] + dp * dp * share;
  a.v[4] += b.v[4] + dy * dp * share;
  a.n = sum;
}

// As `moments`, of columns one of which has squares out of range; that one is scaled.
template <class F>
Moments scaled_moments(std::span<const F> y, const F* p, bool scale_y, bool scale_p, int threads) {
  const auto n = static_cast<int64_t>(y.size());
  const auto first = [](const F* x) { return [x0 = static_cast<double>(x[0])](int64_t) { return x0; }; };
  const ScaledDifferences u(n, threads, of(y.data()), first(y.data())), v(n, threads, of(p), first(p));
  const auto of_block = [&](int64_t i, int64_t m) {
    double a[kBlock], b[kBlock];
    for (int64_t r = 0; r < m; ++r) {
      a[r] = scale_y ? u(i + r) : static_cast<double>(y[i + r]) - static_cast<double>(y[0]);
      b[r] = scale_p ? v(i + r) : static_cast<double>(p[i + r]) - static_cast<double>(p[0]);
    }
    Moments e{.n = static_cast<double>(m)};
    base::block_moments<double>(a, b, m, 0, 0, e.v);
    return e;
  };
  Moments total = sum_blocks<Moments>(n, threads, of_block, merge);
  total.exponents[0] = scale_y ? u.exponent() : 0;
  total.exponents[1] = scale_p ? v.exponent() : 0;
  return total;
}

}  // namespace

template <class F>
Errors errors(std::span<const F> y, const F* p, double theta, int threads) {
  const auto fast = fast_errors(y, p, theta, threads);
  Errors out{{fast.sums[0]}, {fast.sums[1]}, fast.within};
  if (fast.sums[0] != 0 && !(fast.sums[0] < kLargest && is_ordinary(fast.sums[1]))) {
    add_scaled_errors(y, p, threads, out);
  }
  return out;
}

template <class F>
Moments moments(std::span<const F> y, const F* p, int threads) {
  if (y.empty()) {
    return {};
  }
  const double y0 = y[0], p0 = p[0];
  const auto of_block = [&](int64_t i, int64_t m) {
    Moments e{.n = static_cast<double>(m)};
    const auto loop = isa() == Isa::base ? base::block_moments<F> : avx2::block_moments<F>;
    loop(y.data() + i, p + i, m, y0, p0, e.v);
    return e;
  };
  const Moments fast = sum_blocks<Moments>(static_cast<int64_t>(y.size()), threads, of_block, merge);
  const auto is_extreme = [&](double sum_of_squares, const F* x) {
    return !is_ordinary(sum_of_squares) &&
           (sum_of_squares != 0 || std::any_of(x, x + y.size(), [x](F value) { return value != *x; }));
  };
  const bool scale_y = is_extreme(fast.v[2], y.data()), scale_p = is_extreme(fast.v[3], p);
  return scale_y || scale_p ? scaled_moments(y, p, scale_y, scale_p, threads) : fast;
}

template <class F>
Coverage coverage(std::span<const F> lower, const F* upper, const F* y, int threads) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  const auto of_block = [&](int64_t i, int64_t m) {
    Coverage c{.width = {}, .crossed = kNone};
    for (int64_t r = i; r < i + m; ++r) {
      c.inside += (lower[r] <= y[r]) & (y[r] <= upper[r]);
      c.width.value += static_cast<double>(upper[r]) - static_cast<double>(lower[r]);
      if (lower[r] > upper[r]) [[unlikely]] {
        c.crossed = std::min(c.crossed, r);
      }
    }
    return c;
  };
  Coverage total =
      sum_blocks<Coverage>(static_cast<int64_t>(lower.size()), threads, of_block, [](Coverage& a, const Coverage& b) {
        a.inside += b.inside;
        a.width.value += b.width.value;
        a.crossed = std::min(a.crossed, b.crossed);
      });
  if (!(total.width.value < kLargest)) {
    total.width = errors<F>({upper, lower.size()}, lower.data(), 0, threads).absolute;
  }
  if (total.crossed == kNone) {
    total.crossed = -1;
  }
  return total;
}

#define INSTANTIATE(F)                                               \
  template Errors errors(std::span<const F>, const F*, double, int); \
  template Moments moments(std::span<const F>, const F*, int);       \
  template Coverage coverage(std::span<const F>, const F*, const F*, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace ordkernels::host
