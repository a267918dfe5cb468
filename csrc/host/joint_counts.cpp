#include "host/joint_counts.h"

#include <algorithm>
#include <atomic>

#include "host/parallel.h"

namespace ordkernels::host {

namespace {

constexpr int64_t kChunkRows = 1 << 16;  // per unit of work

}  // namespace

template <class F>
void joint_counts(const F* y, const F* p, int64_t n, const Bins<F>& y_bins, const Bins<F>& p_bins, int threads,
                  int64_t* counts) {
  constexpr int64_t kBlock = Bins<F>::kBlock;
  const int64_t B = p_bins.size();
  parallel_for((n + kChunkRows - 1) / kChunkRows, threads, [&](int64_t c) {
    int64_t* at[kBlock];
    uint32_t row[kBlock], column[kBlock];
    const int64_t end = std::min(n, (c + 1) * kChunkRows);
    for (int64_t i = c * kChunkRows; i < end; i += kBlock) {
      const int64_t m = std::min(kBlock, end - i);
      y_bins(y + i, m, row);
      p_bins(p + i, m, column);
      for (int64_t r = 0; r < m; ++r) {
        at[r] = counts + row[r] * B + column[r];
        __builtin_prefetch(at[r], 1);
      }
      for (int64_t r = 0; r < m; ++r) {
        std::atomic_ref<int64_t>(*at[r]).fetch_add(1, std::memory_order_relaxed);
      }
    }
  });
}

template void joint_counts(const float*, const float*, int64_t, const Bins<float>&, const Bins<float>&, int, int64_t*);
template void joint_counts(const double*, const double*, int64_t, const Bins<double>&, const Bins<double>&, int,
                           int64_t*);

}  // namespace ordkernels::host
