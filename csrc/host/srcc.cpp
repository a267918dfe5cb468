#include "host/srcc.h"

#include <cmath>
#include <limits>
#include <vector>

#include "host/buffer.h"
#include "host/row_radix_sort.h"
#include "host/runs.h"

namespace ordkernels::host {

namespace {

__extension__ typedef __int128 Int128;

// Of doubled ranks, which are whole numbers: exact.
struct RankSums {
  Int128 pp = 0, yy = 0, yp = 0;
};

template <class K>
double rank_correlation(const Column& y, const Column& p, int64_t n, int threads) {
  using R = Row<K, false>;
  Buffer<R> buffer(n), spare(n);
  R *const by_p = buffer.data(), *const by_y = spare.data();
  load_all_rows(y, p, nullptr, n, false, threads, by_p);
  std::vector<RankSums> sums(run_chunks(n));
  sort_rows(by_p, by_y, n, false, threads);
  const auto equal_p = [by_p](int64_t i, int64_t j) { return by_p[i].p == by_p[j].p; };
  for_each_run(n, threads, equal_p, [&](int64_t begin, int64_t end, int64_t c) {
    const K rank = static_cast<K>(begin + 1 + end);
    for (int64_t i = begin; i < end; ++i) {
      by_y[i] = {by_p[i].y, rank};  // to be sorted by y; the rank of the prediction comes along
    }
    sums[c].pp += static_cast<Int128>(rank) * rank * (end - begin);
  });
  sort_rows(by_y, by_p, n, false, threads);
  const auto equal_y = [by_y](int64_t i, int64_t j) { return by_y[i].p == by_y[j].p; };
  for_each_run(n, threads, equal_y, [&](int64_t begin, int64_t end, int64_t c) {
    const Int128 rank = begin + 1 + end;
    Int128 of_predictions = 0;
    for (int64_t i = begin; i < end; ++i) {
      of_predictions += by_y[i].y;
    }
    sums[c].yy += rank * rank * (end - begin);
    sums[c].yp += rank * of_predictions;
  });
  Int128 pp = 0, yy = 0, yp = 0;
  for (const auto& sum : sums) {
    pp += sum.pp;
    yy += sum.yy;
    yp += sum.yp;
  }
  const Int128 mean = static_cast<Int128>(n) * (n + 1) * (n + 1);  // n times the square of the mean doubled rank
  const long double scale = sqrtl(static_cast<long double>(pp - mean)) * sqrtl(static_cast<long double>(yy - mean));
  return scale > 0 ? static_cast<double>(static_cast<long double>(yp - mean) / scale)
                   : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

double srcc(const Column& y, const Column& p, int64_t n, int threads) {
  const bool ranks_need_64_bits = n >= (1 << 29);
  return y.is_64_bit() || p.is_64_bit() || ranks_need_64_bits ? rank_correlation<int64_t>(y, p, n, threads)
                                                              : rank_correlation<int32_t>(y, p, n, threads);
}

}  // namespace ordkernels::host
