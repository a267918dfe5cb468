// The interval score on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"

ORD_DECLARE_KERNEL(interval_score_forward, bool is_double, const void* lower, const void* upper, const void* y,
                   void* out, double level, int64_t begin, int64_t end);
// g_lower, g_upper, g_y: null where that gradient is not asked for.
ORD_DECLARE_KERNEL(interval_score_backward, bool is_double, const void* lower, const void* upper, const void* y,
                   const void* g, void* g_lower, void* g_upper, void* g_y, double level, int64_t begin, int64_t end);

namespace {

constexpr int64_t kRowsPerTask = 16384;

Tensor interval_score(const Tensor& lower_, const Tensor& upper_, const Tensor& y_, double level) {
  const bool is_double = check_float_or_double("lower", lower_);
  check_like("upper", upper_, lower_);
  check_like("y", y_, lower_);
  const Tensor lower = as_contiguous(lower_), upper = as_contiguous(upper_), y = as_contiguous(y_);
  Tensor score = empty_contiguous_like(lower);
  const void *from = lower.const_data_ptr(), *to = upper.const_data_ptr(), *label = y.const_data_ptr();
  void* out = score.mutable_data_ptr();
  auto* run = ORD_DISPATCH(interval_score_forward);
  torch::stable::parallel_for(0, lower.numel(), kRowsPerTask, [&](int64_t begin, int64_t end) {
    run(is_double, from, to, label, out, level, begin, end);
  });
  return score;
}

std::tuple<Tensor, Tensor, Tensor> interval_score_backward(const Tensor& lower_, const Tensor& upper_, const Tensor& y_,
                                                           const Tensor& g_, double level, int64_t grad_mask) {
  const bool is_double = check_float_or_double("lower", lower_);
  check_like("upper", upper_, lower_);
  check_like("y", y_, lower_);
  check_like("g", g_, lower_);
  const Tensor lower = as_contiguous(lower_), upper = as_contiguous(upper_), y = as_contiguous(y_);
  const Tensor g = as_contiguous(g_);
  Tensor g_lower = empty_contiguous(lower, {grad_mask & 1 ? lower.numel() : 0});
  Tensor g_upper = empty_contiguous(lower, {grad_mask & 2 ? lower.numel() : 0});
  Tensor g_y = empty_contiguous(lower, {grad_mask & 4 ? lower.numel() : 0});
  const void *from = lower.const_data_ptr(), *to = upper.const_data_ptr(), *label = y.const_data_ptr();
  const void* grad = g.const_data_ptr();
  void* by_lower = grad_mask & 1 ? g_lower.mutable_data_ptr() : nullptr;
  void* by_upper = grad_mask & 2 ? g_upper.mutable_data_ptr() : nullptr;
  void* by_y = grad_mask & 4 ? g_y.mutable_data_ptr() : nullptr;
  auto* run = ORD_DISPATCH(interval_score_backward);
  torch::stable::parallel_for(0, lower.numel(), kRowsPerTask, [&](int64_t begin, int64_t end) {
    run(is_double, from, to, label, grad, by_lower, by_upper, by_y, level, begin, end);
  });
  return {g_lower, g_upper, g_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("interval_score", TORCH_BOX(&interval_score));
  m.impl("_interval_score", TORCH_BOX(&interval_score));
  m.impl("interval_score_backward", TORCH_BOX(&interval_score_backward));
  m.impl("_interval_score_backward", TORCH_BOX(&interval_score_backward));
}
