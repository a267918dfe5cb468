// reverse_step, which serves flow_step too, forward and backward: check, allocate, share out the rows.
#include "cpu/diffusion_checks.h"

ORD_DECLARE_KERNEL(reverse_step, const diffusion::StepArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(reverse_step_backward, const diffusion::StepArgs&, int64_t begin, int64_t end);

namespace {

using namespace diffusion;

// From the level t to s, each a tensor or a constant.
struct StepLevels {
  const OptionalTensor &t, &s;
  double t_constant, s_constant;
};

StepArgs reverse_args(const Tensor& x_t, const Tensor& output, const StepLevels& levels, double eta, int64_t prediction,
                      OptionalNumber clip, bool use_clipped_output) {
  StepArgs a =
      step_args(x_t, output, checked_levels("alpha_bar_t", levels.t, levels.t_constant, x_t), prediction, clip);
  a.s = checked_levels("alpha_bar_s", levels.s, levels.s_constant, x_t);
  a.eta = eta;
  a.use_clipped_output = use_clipped_output;
  return a;
}

std::tuple<Tensor, Tensor> reverse_step(const Tensor& x_, const Tensor& output_, const OptionalTensor& t,
                                        const OptionalTensor& s, const OptionalTensor& noise,
                                        const OptionalTensor& row_ids, double t_constant, double s_constant, double eta,
                                        int64_t prediction, OptionalNumber clip, bool use_clipped_output, bool random,
                                        int64_t seed, int64_t step) {
  const Tensor x_t = as_contiguous(x_), output = as_contiguous(output_);
  const Noise from{checked_like("noise", noise, x_t), as_contiguous(row_ids), random, seed, step};
  StepArgs a = reverse_args(x_t, output, {t, s, t_constant, s_constant}, eta, prediction, clip, use_clipped_output);
  set_noise(a, from);
  Tensor x_s = empty_contiguous_like(x_t), x0 = empty_contiguous_like(x_t);
  a.x_s = x_s.mutable_data_ptr();
  a.x0 = x0.mutable_data_ptr();
  run(a, {a.x_s, a.x0}, ORD_DISPATCH(reverse_step));
  return {x_s, x0};
}

// grad_mask: 1 x_t, 2 output, 4 and 8 the coefficients, 16 noise.
std::tuple<Tensor, Tensor, Tensor, Tensor> reverse_step_backward(
    const Tensor& x_, const Tensor& output_, const OptionalTensor& t, const OptionalTensor& s,
    const OptionalTensor& noise, const OptionalTensor& row_ids, const OptionalTensor& g_x_s_,
    const OptionalTensor& g_x0_, double t_constant, double s_constant, double eta, int64_t prediction,
    OptionalNumber clip, bool use_clipped_output, bool random, int64_t seed, int64_t step, int64_t grad_mask) {
  const Tensor x_t = as_contiguous(x_), output = as_contiguous(output_);
  const OptionalTensor g_x_s = checked_like("g_xs", g_x_s_, x_t), g_x0 = checked_like("g_x0", g_x0_, x_t);
  const bool want_dots = grad_mask & 12;  // only those need generated noise again
  const Noise from{checked_like("noise", noise, x_t), as_contiguous(row_ids), random && want_dots, seed, step};
  StepArgs a = reverse_args(x_t, output, {t, s, t_constant, s_constant}, eta, prediction, clip, use_clipped_output);
  set_noise(a, from);
  a.g_x_s = data_or_null(g_x_s);
  a.g_x0 = data_or_null(g_x0);
  Tensor g_x = gradient_like(x_t, grad_mask & 1, a.g_x_t), g_output = gradient_like(x_t, grad_mask & 2, a.g_output);
  Tensor g_noise = gradient_like(x_t, grad_mask & 16, a.g_noise);
  Tensor dots = coefficient_gradients(x_t, 6, want_dots, a.dots);
  run(a, {a.g_x_t, a.g_output, a.g_noise}, ORD_DISPATCH(reverse_step_backward));
  return {g_x, g_output, g_noise, dots};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("reverse_step", TORCH_BOX(&reverse_step));
  m.impl("_reverse_step", TORCH_BOX(&reverse_step));
  m.impl("reverse_step_backward", TORCH_BOX(&reverse_step_backward));
  m.impl("_reverse_step_backward", TORCH_BOX(&reverse_step_backward));
}
