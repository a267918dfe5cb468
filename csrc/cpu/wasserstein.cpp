// Wasserstein loss on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"

ORD_DECLARE_KERNEL(wasserstein_forward, DType, const void*, const void*, const void*, const void*, void*, uint8_t*,
                   void*, void*, int64_t, int64_t, int64_t);
ORD_DECLARE_KERNEL(wasserstein_backward, DType, const uint8_t*, const void*, const void*, const void*, void*, void*,
                   void*, void*, int64_t, int64_t, int64_t);

namespace {

void check_same(const char* name, const Tensor& t, const Tensor& samples) {
  STD_TORCH_CHECK(t.scalar_type() == samples.scalar_type(), name, ": expected the dtype of samples");
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == samples.size(0) && t.size(1) == samples.size(1), name,
                  ": expected [B, L] = [", samples.size(0), ", ", samples.size(1), "]");
}

void check_rows(const char* name, const Tensor& t, int64_t B, ScalarType dtype) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == B, name, ": expected [B] = [", B, "]");
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, ": expected the dtype of the computation, fp32 or fp64");
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& samples_, const Tensor& q_user_, const Tensor& q_item_,
                                           const Tensor& lam_, int64_t needs) {
  const DType dtype = dtype_of("samples", samples_);
  STD_TORCH_CHECK(samples_.dim() == 2 && samples_.size(1) > 0, "samples: expected [B, L] with L at least 1");
  const int64_t B = samples_.size(0), L = samples_.size(1);
  STD_TORCH_CHECK(L <= (INT64_C(1) << 30), "samples: expected L up to 2^30, got ", L);
  check_same("q_user", q_user_, samples_);
  check_same("q_item", q_item_, samples_);
  check_rows("lam", lam_, B, compute_type(dtype));
  const Tensor samples = as_contiguous(samples_), q_user = as_contiguous(q_user_), q_item = as_contiguous(q_item_),
               lam = as_contiguous(lam_);
  auto loss = torch::stable::new_empty(samples, {B});
  auto signs = torch::stable::new_empty(samples, {needs ? B : 0, 2, L}, ScalarType::Byte);
  auto slope = torch::stable::new_empty(samples, {B}, compute_type(dtype));
  const void *s = samples.const_data_ptr(), *u = q_user.const_data_ptr(), *v = q_item.const_data_ptr(),
             *w = lam.const_data_ptr();
  void *lp = loss.mutable_data_ptr(), *sl = slope.mutable_data_ptr();
  auto* code = needs ? out<uint8_t>(signs) : nullptr;
  auto* f = ORD_DISPATCH(wasserstein_forward);
  torch::stable::parallel_for(0, B, 8 + 4096 / L, [&](int64_t b, int64_t e) {
    std::vector<uint64_t> workspace(9 * L * (dtype == DType::f64 ? 2 : 1));
    f(dtype, s, u, v, w, lp, code, sl, workspace.data(), L, b, e);
  });
  return {loss, signs, slope};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& signs_, const Tensor& slope_, const Tensor& lam_,
                                                    const Tensor& g_, int64_t needs) {
  const DType dtype = dtype_of("g", g_);
  STD_TORCH_CHECK(
      signs_.dim() == 3 && signs_.size(1) == 2 && signs_.size(2) > 0 && signs_.scalar_type() == ScalarType::Byte,
      "signs: expected uint8 [B, 2, L]");
  const int64_t B = signs_.size(0), L = signs_.size(2);
  check_rows("g", g_, B, g_.scalar_type());
  check_rows("slope", slope_, B, compute_type(dtype));
  check_rows("lam", lam_, B, compute_type(dtype));
  const Tensor signs = as_contiguous(signs_), slope = as_contiguous(slope_), lam = as_contiguous(lam_),
               g = as_contiguous(g_);
  Tensor grads[4];
  void* to[4];
  for (int i = 0; i < 4; ++i) {
    const bool wanted = needs >> i & 1;
    if (i < 3) {
      grads[i] = wanted ? torch::stable::new_empty(g, {B, L}) : torch::stable::new_empty(g, {0});
    } else {
      grads[i] = torch::stable::new_empty(slope, {wanted ? B : 0});
    }
    to[i] = wanted ? grads[i].mutable_data_ptr() : nullptr;
  }
  const auto* code = in<uint8_t>(signs);
  const void *sl = slope.const_data_ptr(), *w = lam.const_data_ptr(), *gp = g.const_data_ptr();
  auto* f = ORD_DISPATCH(wasserstein_backward);
  torch::stable::parallel_for(0, B, 1 + 16384 / L, [&](int64_t b, int64_t e) {
    f(dtype, code, sl, w, gp, to[0], to[1], to[2], to[3], L, b, e);
  });
  return {grads[0], grads[1], grads[2], grads[3]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("wasserstein_quantile_loss", TORCH_BOX(&forward));
  m.impl("_wasserstein_quantile_loss", TORCH_BOX(&forward));
  m.impl("wasserstein_quantile_loss_backward", TORCH_BOX(&backward));
  m.impl("_wasserstein_quantile_loss_backward", TORCH_BOX(&backward));
}
