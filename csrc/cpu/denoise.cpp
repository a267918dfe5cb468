// q_sample, predict_x0 and reverse_step, forward and backward: check, allocate, share out the rows.
#include "cpu/denoise_checks.h"

namespace {

using namespace denoise;

// Samples: alpha_bar or time; x0 is [B, D] under noise [B, K, D], or like noise.
Args sample_args(const Tensor& x0, const Tensor& noise, const OptionalTensor& t, double number, int64_t kind) {
  Args a = rows_of("noise", noise, kind, 1);
  if (kind == 1) {
    a.kind = denoise::kFlow;
  }
  a.x_per_b = noise.dim() == 3 && x0.dim() == 2;
  STD_TORCH_CHECK(x0.scalar_type() == noise.scalar_type(), "x0: expected the dtype of noise");
  STD_TORCH_CHECK(a.x_per_b ? x0.size(0) == a.B && x0.size(1) == a.D : has_shape(x0, noise.sizes()),
                  "x0: expected [B, D] or the shape of noise");
  a.x = x0.const_data_ptr(), a.noise = noise.const_data_ptr();
  a.t = per_row("alpha_bar", t, number, noise);
  return a;
}

Tensor q_sample(const Tensor& x0_, const Tensor& noise_, const OptionalTensor& t, double number, int64_t kind) {
  const Tensor x0 = as_contiguous(x0_), noise = as_contiguous(noise_);
  Args a = sample_args(x0, noise, t, number, kind);
  auto o = empty_contiguous_like(noise);
  a.x_s = o.mutable_data_ptr();
  run(a, {a.x_s}, ORD_DISPATCH(sample));
  return o;
}

std::tuple<Tensor, Tensor, Tensor> q_sample_backward(const Tensor& x0_, const Tensor& noise_, const OptionalTensor& t,
                                                     const OptionalTensor& g_, double number, int64_t kind,
                                                     int64_t wanted) {
  const Tensor x0 = as_contiguous(x0_), noise = as_contiguous(noise_);
  Args a = sample_args(x0, noise, t, number, kind);
  auto zeros = empty_contiguous(noise, g_ ? std::vector<int64_t>{0} : shape_of(noise));
  const Tensor g = g_ ? *dense("g", g_, noise) : torch::stable::fill_(zeros, 0);
  auto gx = empty_like_if(wanted & 1, x0), gn = empty_like_if(wanted & 2, noise), dots = dots_for(wanted & 4, noise, 2);
  a.g_xs = g.const_data_ptr();
  if (wanted & 1) {
    a.g_x = gx.mutable_data_ptr();
  }
  if (wanted & 2) {
    a.g_noise = gn.mutable_data_ptr();
  }
  if (wanted & 4) {
    a.dots = dots.mutable_data_ptr();
  }
  run(a, {a.x_per_b ? nullptr : a.g_x, a.g_noise}, ORD_DISPATCH(sample_backward));
  return {gx, gn, dots};
}

Args step_args(const Tensor& x, const Tensor& output, const OptionalTensor& t, double t_number, const OptionalTensor& s,
               double s_number, int64_t kind, double clip) {
  Args a = rows_of("x_t", x, kind, 3);
  check_like("output", output, x);
  a.x = x.const_data_ptr(), a.output = output.const_data_ptr();
  a.t = per_row("alpha_bar_t", t, t_number, x), a.s = per_row("alpha_bar_s", s, s_number, x);
  a.clip = clip;
  return a;
}

Tensor predict_x0(const Tensor& x_, const Tensor& output_, const OptionalTensor& t, double number, int64_t kind,
                  double clip) {
  const Tensor x = as_contiguous(x_), output = as_contiguous(output_);
  Args a = step_args(x, output, t, number, {}, 1, kind, clip);
  auto x0 = empty_contiguous_like(x);
  a.x0 = x0.mutable_data_ptr();
  run(a, {a.x_s, a.x0}, ORD_DISPATCH(reverse_step));
  return x0;
}

std::tuple<Tensor, Tensor, Tensor> predict_x0_backward(const Tensor& x_, const Tensor& output_, const OptionalTensor& t,
                                                       const OptionalTensor& g_, double number, int64_t kind,
                                                       double clip, int64_t wanted) {
  const Tensor x = as_contiguous(x_), output = as_contiguous(output_);
  const OptionalTensor g = dense("g", g_, x);
  Args a = step_args(x, output, t, number, {}, 1, kind, clip);
  auto gx = empty_like_if(wanted & 1, x), go = empty_like_if(wanted & 2, x), dots = dots_for(wanted & 4, x, 2);
  a.g_x0 = data_or_null(g);
  if (wanted & 1) {
    a.g_x = gx.mutable_data_ptr();
  }
  if (wanted & 2) {
    a.g_output = go.mutable_data_ptr();
  }
  if (wanted & 4) {
    a.dots = dots.mutable_data_ptr();
  }
  run(a, {a.g_x, a.g_output, a.g_noise}, ORD_DISPATCH(reverse_step_backward));
  return {gx, go, dots};
}

std::tuple<Tensor, Tensor> reverse_step(const Tensor& x_, const Tensor& output_, const OptionalTensor& t,
                                        const OptionalTensor& s, const OptionalTensor& noise_,
                                        const OptionalTensor& row_ids_, double t_number, double s_number, double eta,
                                        int64_t kind, double clip, bool reclip, bool random, int64_t seed,
                                        int64_t step) {
  const Tensor x = as_contiguous(x_), output = as_contiguous(output_);
  const OptionalTensor noise = dense("noise", noise_, x),
                       row_ids = row_ids_ ? OptionalTensor(as_contiguous(*row_ids_)) : OptionalTensor();
  Args a = step_args(x, output, t, t_number, s, s_number, kind, clip);
  a.whole = true, a.eta = eta, a.reclip = reclip;
  set_noise(a, noise, row_ids, random, seed, step);
  auto xs = empty_contiguous_like(x), x0 = empty_contiguous_like(x);
  a.x_s = xs.mutable_data_ptr(), a.x0 = x0.mutable_data_ptr();
  run(a, {a.x_s, a.x0}, ORD_DISPATCH(reverse_step));
  return {xs, x0};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reverse_step_backward(
    const Tensor& x_, const Tensor& output_, const OptionalTensor& t, const OptionalTensor& s,
    const OptionalTensor& noise_, const OptionalTensor& row_ids_, const OptionalTensor& gs_, const OptionalTensor& g0_,
    double t_number, double s_number, double eta, int64_t kind, double clip, bool reclip, bool random, int64_t seed,
    int64_t step, int64_t wanted) {
  const Tensor x = as_contiguous(x_), output = as_contiguous(output_);
  const OptionalTensor noise = dense("noise", noise_, x),
                       row_ids = row_ids_ ? OptionalTensor(as_contiguous(*row_ids_)) : OptionalTensor();
  const OptionalTensor gs = dense("g_xs", gs_, x), g0 = dense("g_x0", g0_, x);
  const bool want_dots = wanted & 12;
  Args a = step_args(x, output, t, t_number, s, s_number, kind, clip);
  a.whole = true, a.eta = eta, a.reclip = reclip;
  set_noise(a, noise, row_ids, random && want_dots, seed, step);  // only those need it again
  auto gx = empty_like_if(wanted & 1, x), go = empty_like_if(wanted & 2, x), dots = dots_for(want_dots, x, 6),
       gn = empty_like_if(wanted & 16, x);
  a.g_xs = data_or_null(gs), a.g_x0 = data_or_null(g0);
  if (wanted & 1) {
    a.g_x = gx.mutable_data_ptr();
  }
  if (wanted & 2) {
    a.g_output = go.mutable_data_ptr();
  }
  if (want_dots) {
    a.dots = dots.mutable_data_ptr();
  }
  if (wanted & 16) {
    a.g_noise = gn.mutable_data_ptr();
  }
  run(a, {a.g_x, a.g_output, a.g_noise}, ORD_DISPATCH(reverse_step_backward));
  return {gx, go, gn, dots};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("q_sample", TORCH_BOX(&q_sample));
  m.impl("_q_sample", TORCH_BOX(&q_sample));
  m.impl("q_sample_backward", TORCH_BOX(&q_sample_backward));
  m.impl("_q_sample_backward", TORCH_BOX(&q_sample_backward));
  m.impl("predict_x0", TORCH_BOX(&predict_x0));
  m.impl("_predict_x0", TORCH_BOX(&predict_x0));
  m.impl("predict_x0_backward", TORCH_BOX(&predict_x0_backward));
  m.impl("_predict_x0_backward", TORCH_BOX(&predict_x0_backward));
  m.impl("reverse_step", TORCH_BOX(&reverse_step));
  m.impl("_reverse_step", TORCH_BOX(&reverse_step));
  m.impl("reverse_step_backward", TORCH_BOX(&reverse_step_backward));
  m.impl("_reverse_step_backward", TORCH_BOX(&reverse_step_backward));
}
