// guided_posterior_step, forward and backward: check, allocate, share out the rows.
#include "cpu/denoise_checks.h"

namespace {

using namespace denoise;

struct Inputs {
  Tensor x, un, cp, tf;
  OptionalTensor noise, row_ids;
};

Inputs dense_inputs(const Tensor& x, const Tensor& un, const Tensor& cp, const Tensor& tf, const OptionalTensor& noise,
                    const OptionalTensor& row_ids) {
  return {as_contiguous(x),         *dense("f_un", un, x),
          *dense("f_cp", cp, x),    *dense("f_tf", tf, x),
          dense("noise", noise, x), row_ids ? OptionalTensor(as_contiguous(*row_ids)) : OptionalTensor()};
}

Guided guided_args(const Inputs& in, const OptionalTensor& t, const OptionalTensor& s, double t_number, double s_number,
                   double gamma_cp, double gamma_tf, bool beta, bool random, int64_t seed, int64_t step) {
  Guided a{};
  static_cast<Args&>(a) = rows_of("x_t", in.x, 0, 0);
  a.x = in.x.const_data_ptr(), a.output = in.un.const_data_ptr(), a.f_cp = in.cp.const_data_ptr(),
  a.f_tf = in.tf.const_data_ptr();
  a.t = per_row("alpha_bar_t", t, t_number, in.x), a.s = per_row("alpha_bar_s", s, s_number, in.x);
  a.gamma_cp = gamma_cp, a.gamma_tf = gamma_tf, a.beta = beta;
  set_noise(a, in.noise, in.row_ids, random, seed, step);
  return a;
}

std::tuple<Tensor, Tensor> step(const Tensor& x, const Tensor& un, const Tensor& cp, const Tensor& tf,
                                const OptionalTensor& t, const OptionalTensor& s, const OptionalTensor& noise,
                                const OptionalTensor& row_ids, double t_number, double s_number, double gamma_cp,
                                double gamma_tf, bool beta, bool random, int64_t seed, int64_t step) {
  const Inputs in = dense_inputs(x, un, cp, tf, noise, row_ids);
  Guided a = guided_args(in, t, s, t_number, s_number, gamma_cp, gamma_tf, beta, random, seed, step);
  auto xs = empty_contiguous_like(in.x), f_hat = empty_contiguous_like(in.x);
  a.x_s = xs.mutable_data_ptr(), a.x0 = f_hat.mutable_data_ptr();
  run(a, {a.x_s, a.x0}, ORD_DISPATCH(guided_step));
  return {xs, f_hat};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> step_backward(
    const Tensor& x, const Tensor& un, const Tensor& cp, const Tensor& tf, const OptionalTensor& t,
    const OptionalTensor& s, const OptionalTensor& noise, const OptionalTensor& row_ids, const OptionalTensor& gs_,
    const OptionalTensor& gf_, double t_number, double s_number, double gamma_cp, double gamma_tf, bool beta,
    bool random, int64_t seed, int64_t step, int64_t wanted) {
  const Inputs in = dense_inputs(x, un, cp, tf, noise, row_ids);
  const OptionalTensor gs = dense("g_xs", gs_, x), gf = dense("g_f", gf_, x);
  const bool want_dots = wanted & 48;
  Guided a = guided_args(in, t, s, t_number, s_number, gamma_cp, gamma_tf, beta, random && want_dots, seed,
                         step);  // only those need noise again
  auto gx = empty_like_if(wanted & 1, in.x), gu = empty_like_if(wanted & 2, in.x), gc = empty_like_if(wanted & 4, in.x);
  auto gt = empty_like_if(wanted & 8, in.x), gn = empty_like_if(wanted & 64, in.x), dots = dots_for(want_dots, in.x, 3);
  a.g_xs = data_or_null(gs), a.g_x0 = data_or_null(gf);
  if (wanted & 1) {
    a.g_x = gx.mutable_data_ptr();
  }
  if (wanted & 2) {
    a.g_output = gu.mutable_data_ptr();
  }
  if (wanted & 4) {
    a.g_cp = gc.mutable_data_ptr();
  }
  if (wanted & 8) {
    a.g_tf = gt.mutable_data_ptr();
  }
  if (want_dots) {
    a.dots = dots.mutable_data_ptr();
  }
  if (wanted & 64) {
    a.g_noise = gn.mutable_data_ptr();
  }
  run(a, {a.g_x, a.g_output, a.g_cp, a.g_tf, a.g_noise}, ORD_DISPATCH(guided_step_backward));
  return {gx, gu, gc, gt, gn, dots};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("guided_posterior_step", TORCH_BOX(&step));
  m.impl("_guided_posterior_step", TORCH_BOX(&step));
  m.impl("guided_posterior_step_backward", TORCH_BOX(&step_backward));
  m.impl("_guided_posterior_step_backward", TORCH_BOX(&step_backward));
}
