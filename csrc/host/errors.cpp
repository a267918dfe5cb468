// Rows are summed in blocks of a fixed size, the blocks in a fixed tree: rounding grows with the logarithm of N.
#include "host/errors.h"

#include <algorithm>
#include <limits>
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

}  // namespace

template <class F>
Errors errors(std::span<const F> y, const F* p, double theta, int threads) {
  const auto of_block = [&](int64_t i, int64_t m) {
    Errors e;
    const auto loop = isa() == Isa::base ? base::block_errors<F> : avx2::block_errors<F>;
    loop(y.data() + i, p + i, m, theta, e.sums, &e.within);
    return e;
  };
  return sum_blocks<Errors>(static_cast<int64_t>(y.size()), threads, of_block, [](Errors& a, const Errors& b) {
    a.sums[0] += b.sums[0];
    a.sums[1] += b.sums[1];
    a.within += b.within;
  });
}

// Blocks are merged by the formula of Chan, Golub and LeVeque.
template <class F>
Moments moments(std::span<const F> y, const F* p, int threads) {
  const auto of_block = [&](int64_t i, int64_t m) {
    Moments e;
    e.n = static_cast<double>(m);
    const auto loop = isa() == Isa::base ? base::block_moments<F> : avx2::block_moments<F>;
    loop(y.data() + i, p + i, m, e.v);
    return e;
  };
  return sum_blocks<Moments>(static_cast<int64_t>(y.size()), threads, of_block, [](Moments& a, const Moments& b) {
    const double sum = a.n + b.n, dy = b.v[0] - a.v[0], dp = b.v[1] - a.v[1], share = a.n * b.n / sum;
    a.v[0] += dy * b.n / sum;
    a.v[1] += dp * b.n / sum;
    a.v[2] += b.v[2] + dy * dy * share;
    a.v[3] += b.v[3] + dp * dp * share;
    a.v[4] += b.v[4] + dy * dp * share;
    a.n = sum;
  });
}

template <class F>
Coverage coverage(std::span<const F> lower, const F* upper, const F* y, int threads) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  const auto of_block = [&](int64_t i, int64_t m) {
    Coverage c{.crossed = kNone};
    for (int64_t r = i; r < i + m; ++r) {
      c.inside += (lower[r] <= y[r]) & (y[r] <= upper[r]);
      c.width += static_cast<double>(upper[r]) - static_cast<double>(lower[r]);
      if (lower[r] > upper[r]) [[unlikely]] {
        c.crossed = std::min(c.crossed, r);
      }
    }
    return c;
  };
  Coverage total =
      sum_blocks<Coverage>(static_cast<int64_t>(lower.size()), threads, of_block, [](Coverage& a, const Coverage& b) {
        a.inside += b.inside;
        a.width += b.width;
        a.crossed = std::min(a.crossed, b.crossed);
      });
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
