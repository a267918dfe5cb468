// predict_x0, forward and backward: check, allocate, share out the rows.
#include "cpu/diffusion_checks.h"

ORD_DECLARE_KERNEL(predict_x0, const diffusion::StepArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(predict_x0_backward, const diffusion::StepArgs&, int64_t begin, int64_t end);

namespace {

using namespace diffusion;

Tensor predict_x0(const Tensor& x_, const Tensor& output_, const OptionalTensor& t, double constant, int64_t prediction,
                  OptionalNumber clip) {
  const Tensor x_t = as_contiguous(x_), output = as_contiguous(output_);
  StepArgs a = step_args(x_t, output, checked_levels("alpha_bar", t, constant, x_t), prediction, clip);
  Tensor x0 = empty_contiguous_like(x_t);
  a.x0 = x0.mutable_data_ptr();
  run(a, {a.x0}, ORD_DISPATCH(predict_x0));
  return x0;
}

// grad_mask: 1 x_t, 2 output, 4 the coefficients.
std::tuple<Tensor, Tensor, Tensor> predict_x0_backward(const Tensor& x_, const Tensor& output_, const OptionalTensor& t,
                                                       const OptionalTensor& g_, double constant, int64_t prediction,
                                                       OptionalNumber clip, int64_t grad_mask) {
  const Tensor x_t = as_contiguous(x_), output = as_contiguous(output_);
  const OptionalTensor g = checked_like("g", g_, x_t);
  StepArgs a = step_args(x_t, output, checked_levels("alpha_bar", t, constant, x_t), prediction, clip);
  a.g_x0 = data_or_null(g);
  Tensor g_x = gradient_like(x_t, grad_mask & 1, a.g_x_t), g_output = gradient_like(x_t, grad_mask & 2, a.g_output);
  Tensor dots = coefficient_gradients(x_t, 2, grad_mask & 4, a.dots);
  run(a, {a.g_x_t, a.g_output}, ORD_DISPATCH(predict_x0_backward));
  return {g_x, g_output, dots};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("predict_x0", TORCH_BOX(&predict_x0));
  m.impl("_predict_x0", TORCH_BOX(&predict_x0));
  m.impl("predict_x0_backward", TORCH_BOX(&predict_x0_backward));
  m.impl("_predict_x0_backward", TORCH_BOX(&predict_x0_backward));
}
