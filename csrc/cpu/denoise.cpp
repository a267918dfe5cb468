// q_sample, predict_x0 and reverse_step, forward and backward: check, allocate, share out the rows.
#include "cpu/denoise_checks.h"

ORD_DECLARE_DENOISE(base)
ORD_DECLARE_DENOISE(avx2)
ORD_DECLARE_DENOISE(avx512)

namespace {

using namespace denoise;

// Samples: alpha_bar or time; x0 is [B, D] under noise [B, K, D], or like noise.
Args sample_args(const Tensor& x0, const Tensor& noise, const Maybe& t, double number, int64_t kind) {
  Args a = rows_of("noise", noise, kind, 1);
  if (kind == 1) {
    a.kind = denoise::kFlow;
  }
  a.x_per_b = noise.dim() == 3 && x0.dim() == 2;
  STD_TORCH_CHECK(x0.scalar_type() == noise.scalar_type(), "x0: expected the dtype of noise");
  STD_TORCH_CHECK(a.x_per_b ? x0.size(0) == a.B && x0.size(1) == a.D : same_shape(x0, noise),
                  "x0: expected [B, D] or the shape of noise");
  a.x = x0.const_data_ptr(), a.noise = noise.const_data_ptr();
  a.t = per_row("alpha_bar", t, number, noise);
  return a;
}

Tensor q_sample(const Tensor& x0_, const Tensor& noise_, const Maybe& t, double number, int64_t kind) {
  const Tensor x0 = compact(x0_), noise = compact(noise_);
  Args a = sample_args(x0, noise, t, number, kind);
  auto o = fresh_like(noise);
  a.x_s = o.mutable_data_ptr();
  run(a, {a.x_s}, ORD_DISPATCH(sample));
  return o;
}

std::tuple<Tensor, Tensor, Tensor> q_sample_backward(const Tensor& x0_, const Tensor& noise_, const Maybe& t,
                                                     const Maybe& g_, double number, int64_t kind, int64_t wanted) {
  const Tensor x0 = compact(x0_), noise = compact(noise_);
  Args a = sample_args(x0, noise, t, number, kind);
  auto zeros = fresh(noise, g_ ? std::vector<int64_t>{0} : sizes(noise));
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

Args step_args(const Tensor& x, const Tensor& output, const Maybe& t, double t_number, const Maybe& s, double s_number,
               int64_t kind, double clip) {
  Args a = rows_of("x_t", x, kind, 3);
  check_like("output", output, x);
  a.x = x.const_data_ptr(), a.output = output.const_data_ptr();
  a.t = per_row("alpha_bar_t", t, t_number, x), a.s = per_row("alpha_bar_s", s, s_number, x);
  a.clip = clip;
  return a;
}

Tensor predict_x0(const Tensor& x_, const Tensor& output_, const Maybe& t, double number, int64_t kind, double clip) {
  const Tensor x = compact(x_), output = compact(output_);
  Args a = step_args(x, output, t, number, {}, 1, kind, clip);
  auto x0 = fresh_like(x);
  a.x0 = x0.mutable_data_ptr();
  run(a, {a.x_s, a.x0}, ORD_DISPATCH(reverse_step));
  return x0;
}

std::tuple<Tensor, Tensor, Tensor> predict_x0_backward(const Tensor& x_, const Tensor& output_, const Maybe& t,
                                                       const Maybe& g_, double number, int64_t kind, double clip,
                                                       int64_t wanted) {
  const Tensor x = compact(x_), output = compact(output_);
  const Maybe g = dense("g", g_, x);
  Args a = step_args(x, output, t, number, {}, 1, kind, clip);
  auto gx = empty_like_if(wanted & 1, x), go = empty_like_if(wanted & 2, x), dots = dots_for(wanted & 4, x, 2);
  a.g_x0 = data(g);
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

std::tuple<Tensor, Tensor> reverse_step(const Tensor& x_, const Tensor& output_, const Maybe& t, const Maybe& s,
                                        const Maybe& noise_, const Maybe& row_ids_, double t_number, double s_number,
                                        double eta, int64_t kind, double clip, bool reclip, bool random, int64_t seed,
                                        int64_t step) {
  const Tensor x = compact(x_), output = compact(output_);
  const Maybe noise = dense("noise", noise_, x), row_ids = row_ids_ ? Maybe(compact(*row_ids_)) : Maybe();
  Args a = step_args(x, output, t, t_number, s, s_number, kind, clip);
  a.whole = true, a.eta = eta, a.reclip = reclip;
  set_noise(a, noise, row_ids, random, seed, step);
  auto xs = fresh_like(x), x0 = fresh_like(x);
  a.x_s = xs.mutable_data_ptr(), a.x0 = x0.mutable_data_ptr();
  run(a, {a.x_s, a.x0}, ORD_DISPATCH(reverse_step));
  return {xs, x0};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reverse_step_backward(
    const Tensor& x_, const Tensor& output_, const Maybe& t, const Maybe& s, const Maybe& noise_, const Maybe& row_ids_,
    const Maybe& gs_, const Maybe& g0_, double t_number, double s_number, double eta, int64_t kind, double clip,
    bool reclip, bool random, int64_t seed, int64_t step, int64_t wanted) {
  const Tensor x = compact(x_), output = compact(output_);
  const Maybe noise = dense("noise", noise_, x), row_ids = row_ids_ ? Maybe(compact(*row_ids_)) : Maybe();
  const Maybe gs = dense("g_xs", gs_, x), g0 = dense("g_x0", g0_, x);
  const bool want_dots = wanted & 12;
  Args a = step_args(x, output, t, t_number, s, s_number, kind, clip);
  a.whole = true, a.eta = eta, a.reclip = reclip;
  set_noise(a, noise, row_ids, random && want_dots, seed, step);  // only those need it again
  auto gx = empty_like_if(wanted & 1, x), go = empty_like_if(wanted & 2, x), dots = dots_for(want_dots, x, 6),
       gn = empty_like_if(wanted & 16, x);
  a.g_xs = data(gs), a.g_x0 = data(g0);
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
