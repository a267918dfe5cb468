// q_sample, which serves flow_sample too, forward and backward: check, allocate, share out the rows.
#include "cpu/diffusion_checks.h"

ORD_DECLARE_KERNEL(q_sample, const diffusion::SampleArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(q_sample_backward, const diffusion::SampleArgs&, int64_t begin, int64_t end);

namespace {

using namespace diffusion;

// kind: 0 for diffusion, 1 for flow matching. x0 is [B, D] under noise [B, K, D], or like noise.
SampleArgs sample_args(const Tensor& x0, const Tensor& noise, const OptionalTensor& t, double constant, int64_t kind) {
  STD_TORCH_CHECK(kind == 0 || kind == 1, "kind: expected 0 or 1, got ", kind);
  SampleArgs a = args_of<SampleArgs>("noise", noise);
  a.prediction = kind == 1 ? kFlow : kEps;
  a.x0_per_b = noise.dim() == 3 && x0.dim() == 2;
  check_dtype("x0", x0, noise.scalar_type());
  if (a.x0_per_b) {
    check_shape("x0", x0, {a.B, a.D});
  } else {
    check_shape("x0", x0, noise.sizes());
  }
  a.x0 = x0.const_data_ptr();
  a.noise = noise.const_data_ptr();
  a.t = checked_levels("alpha_bar", t, constant, noise);
  return a;
}

Tensor q_sample(const Tensor& x0_, const Tensor& noise_, const OptionalTensor& t, double constant, int64_t kind) {
  const Tensor x0 = as_contiguous(x0_), noise = as_contiguous(noise_);
  SampleArgs a = sample_args(x0, noise, t, constant, kind);
  Tensor x_t = empty_contiguous_like(noise);
  a.x_t = x_t.mutable_data_ptr();
  run(a, {a.x_t}, ORD_DISPATCH(q_sample));
  return x_t;
}

// grad_mask: 1 x0, 2 noise, 4 the coefficients.
std::tuple<Tensor, Tensor, Tensor> q_sample_backward(const Tensor& x0_, const Tensor& noise_, const OptionalTensor& t,
                                                     const OptionalTensor& g_, double constant, int64_t kind,
                                                     int64_t grad_mask) {
  const Tensor x0 = as_contiguous(x0_), noise = as_contiguous(noise_);
  SampleArgs a = sample_args(x0, noise, t, constant, kind);
  Tensor zeros = empty_contiguous(noise, g_ ? std::vector<int64_t>{0} : shape_of(noise));
  const Tensor g = g_ ? *checked_like("g", g_, noise) : torch::stable::fill_(zeros, 0);
  a.g_x_t = g.const_data_ptr();
  Tensor g_x0 = gradient_like(x0, grad_mask & 1, a.g_x0), g_noise = gradient_like(noise, grad_mask & 2, a.g_noise);
  Tensor dots = coefficient_gradients(noise, 2, grad_mask & 4, a.dots);
  run(a, {a.x0_per_b ? nullptr : a.g_x0, a.g_noise}, ORD_DISPATCH(q_sample_backward));
  return {g_x0, g_noise, dots};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("q_sample", TORCH_BOX(&q_sample));
  m.impl("_q_sample", TORCH_BOX(&q_sample));
  m.impl("q_sample_backward", TORCH_BOX(&q_sample_backward));
  m.impl("_q_sample_backward", TORCH_BOX(&q_sample_backward));
}
