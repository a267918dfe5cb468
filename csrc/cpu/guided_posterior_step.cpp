// guided_posterior_step, forward and backward: check, allocate, share out the rows.
#include "cpu/diffusion_checks.h"

ORD_DECLARE_KERNEL(guided_posterior_step, const diffusion::GuidedArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(guided_posterior_step_backward, const diffusion::GuidedArgs&, int64_t begin, int64_t end);

namespace {

using namespace diffusion;

struct Guidance {
  double gamma_cp, gamma_tf;
  bool beta_variance;
};

// Keeps contiguous inputs for as long as their pointers are used.
struct GuidedCall {
  GuidedArgs a;
  const Tensor x_t, f_un, f_cp, f_tf;
  Noise noise;

  GuidedCall(const Tensor& x, const Tensor& un, const Tensor& cp, const Tensor& tf, const Guidance& guidance,
             const Noise& noise_)
      : a(args_of<GuidedArgs>("x_t", x)),
        x_t(as_contiguous(x)),
        f_un(*checked_like("f_un", un, x)),
        f_cp(*checked_like("f_cp", cp, x)),
        f_tf(*checked_like("f_tf", tf, x)),
        noise(noise_) {
    noise.tensor = checked_like("noise", noise.tensor, x);
    noise.row_ids = as_contiguous(noise.row_ids);
    set_noise(a, noise);
    a.x_t = x_t.const_data_ptr();
    a.f_un = f_un.const_data_ptr();
    a.f_cp = f_cp.const_data_ptr();
    a.f_tf = f_tf.const_data_ptr();
    a.gamma_cp = guidance.gamma_cp;
    a.gamma_tf = guidance.gamma_tf;
    a.beta_variance = guidance.beta_variance;
  }

  void set_levels(const OptionalTensor& t, const OptionalTensor& s, double t_constant, double s_constant) {
    a.t = checked_levels("alpha_bar_t", t, t_constant, x_t);
    a.s = checked_levels("alpha_bar_s", s, s_constant, x_t);
  }
};

std::tuple<Tensor, Tensor> guided_posterior_step(const Tensor& x, const Tensor& un, const Tensor& cp, const Tensor& tf,
                                                 const OptionalTensor& t, const OptionalTensor& s,
                                                 const OptionalTensor& noise, const OptionalTensor& row_ids,
                                                 double t_constant, double s_constant, double gamma_cp, double gamma_tf,
                                                 bool beta, bool random, int64_t seed, int64_t step) {
  GuidedCall call(x, un, cp, tf, {gamma_cp, gamma_tf, beta}, {noise, row_ids, random, seed, step});
  call.set_levels(t, s, t_constant, s_constant);
  Tensor x_s = empty_contiguous_like(call.x_t), f = empty_contiguous_like(call.x_t);
  call.a.x_s = x_s.mutable_data_ptr();
  call.a.f = f.mutable_data_ptr();
  run(call.a, {call.a.x_s, call.a.f}, ORD_DISPATCH(guided_posterior_step));
  return {x_s, f};
}

// grad_mask: 1 x_t, 2 f_un, 4 f_cp, 8 f_tf, 16 and 32 the coefficients, 64 noise.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> guided_posterior_step_backward(
    const Tensor& x, const Tensor& un, const Tensor& cp, const Tensor& tf, const OptionalTensor& t,
    const OptionalTensor& s, const OptionalTensor& noise, const OptionalTensor& row_ids, const OptionalTensor& g_x_s_,
    const OptionalTensor& g_f_, double t_constant, double s_constant, double gamma_cp, double gamma_tf, bool beta,
    bool random, int64_t seed, int64_t step, int64_t grad_mask) {
  const bool want_dots = grad_mask & 48;  // only those need generated noise again
  GuidedCall call(x, un, cp, tf, {gamma_cp, gamma_tf, beta}, {noise, row_ids, random && want_dots, seed, step});
  call.set_levels(t, s, t_constant, s_constant);
  GuidedArgs& a = call.a;
  const Tensor& like = call.x_t;
  const OptionalTensor g_x_s = checked_like("g_xs", g_x_s_, like), g_f = checked_like("g_f", g_f_, like);
  a.g_x_s = data_or_null(g_x_s);
  a.g_f = data_or_null(g_f);
  Tensor g_x = gradient_like(like, grad_mask & 1, a.g_x_t), g_un = gradient_like(like, grad_mask & 2, a.g_un);
  Tensor g_cp = gradient_like(like, grad_mask & 4, a.g_cp), g_tf = gradient_like(like, grad_mask & 8, a.g_tf);
  Tensor g_noise = gradient_like(like, grad_mask & 64, a.g_noise);
  Tensor dots = coefficient_gradients(like, 3, want_dots, a.dots);
  run(a, {a.g_x_t, a.g_un, a.g_cp, a.g_tf, a.g_noise}, ORD_DISPATCH(guided_posterior_step_backward));
  return {g_x, g_un, g_cp, g_tf, g_noise, dots};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("guided_posterior_step", TORCH_BOX(&guided_posterior_step));
  m.impl("_guided_posterior_step", TORCH_BOX(&guided_posterior_step));
  m.impl("guided_posterior_step_backward", TORCH_BOX(&guided_posterior_step_backward));
  m.impl("_guided_posterior_step_backward", TORCH_BOX(&guided_posterior_step_backward));
}
