// The interval score on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"
#include "cpu/ops/interval_score_args.h"

ORD_DECLARE_KERNEL(interval_score_forward, const IntervalScoreArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(interval_score_backward, const IntervalScoreArgs&, int64_t begin, int64_t end);

namespace {

constexpr int64_t kRowsPerTask = 16384;

// The checked inputs, contiguous, and the kernels' arguments for them.
struct Call {
  Call(const Tensor& lower_, const Tensor& upper_, const Tensor& y_, double level) {
    a.is_double = check_float_or_double("lower", lower_);
    check_like("upper", upper_, lower_);
    check_like("y", y_, lower_);
    lower = as_contiguous(lower_);
    upper = as_contiguous(upper_);
    y = as_contiguous(y_);
    a.rate = 2 / (1 - level);
    a.lower = lower.const_data_ptr();
    a.upper = upper.const_data_ptr();
    a.y = y.const_data_ptr();
  }

  template <class Kernel>
  void run(Kernel* kernel) const {
    torch::stable::parallel_for(0, lower.numel(), kRowsPerTask,
                                [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  }

  // The gradient by an input, and its pointer for the kernel; empty and null where it is not wanted.
  Tensor gradient(bool wanted, void*& data) const {
    Tensor g = empty_contiguous(lower, {wanted ? lower.numel() : 0});
    data = wanted ? g.mutable_data_ptr() : nullptr;
    return g;
  }

  IntervalScoreArgs a{};
  Tensor lower, upper, y;
};

Tensor interval_score(const Tensor& lower, const Tensor& upper, const Tensor& y, double level) {
  Call call(lower, upper, y, level);
  Tensor score = empty_contiguous_like(call.lower);
  call.a.out = score.mutable_data_ptr();
  call.run(ORD_DISPATCH(interval_score_forward));
  return score;
}

std::tuple<Tensor, Tensor, Tensor> interval_score_backward(const Tensor& lower, const Tensor& upper, const Tensor& y,
                                                           const Tensor& g_, double level, int64_t grad_mask) {
  Call call(lower, upper, y, level);
  check_like("g", g_, lower);
  const Tensor g = as_contiguous(g_);
  call.a.g = g.const_data_ptr();
  Tensor g_lower = call.gradient(grad_mask & 1, call.a.g_lower), g_upper = call.gradient(grad_mask & 2, call.a.g_upper),
         g_y = call.gradient(grad_mask & 4, call.a.g_y);
  call.run(ORD_DISPATCH(interval_score_backward));
  return {g_lower, g_upper, g_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("interval_score", TORCH_BOX(&interval_score));
  m.impl("_interval_score", TORCH_BOX(&interval_score));
  m.impl("interval_score_backward", TORCH_BOX(&interval_score_backward));
  m.impl("_interval_score_backward", TORCH_BOX(&interval_score_backward));
}
