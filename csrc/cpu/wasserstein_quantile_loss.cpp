// wasserstein_quantile_loss on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"
#include "cpu/ops/wasserstein_quantile_loss_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(wasserstein_quantile_loss_forward, const WassersteinArgs&, void* scratch, int64_t begin,
                   int64_t end);
ORD_DECLARE_KERNEL(wasserstein_quantile_loss_backward, const WassersteinBackwardArgs&, int64_t begin, int64_t end);

namespace {

// (loss [B], signs [B, 2, L] where a gradient is wanted, slope [B])
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& samples_, const Tensor& q_user_, const Tensor& q_item_,
                                           const Tensor& lam_, int64_t grad_mask) {
  WassersteinArgs a{};
  a.dtype = dtype_of("samples", samples_);
  STD_TORCH_CHECK(samples_.dim() == 2 && samples_.size(1) > 0 && samples_.size(1) <= (INT64_C(1) << 30),
                  "samples: expected shape [B, L] with L from 1 to 2^30, got ", shape_text(samples_));
  const int64_t B = samples_.size(0), L = samples_.size(1);
  check_like("q_user", q_user_, samples_);
  check_like("q_item", q_item_, samples_);
  const Tensor samples = as_contiguous(samples_), q_user = as_contiguous(q_user_), q_item = as_contiguous(q_item_),
               lam = checked_contiguous("lam", lam_, compute_type(a.dtype), {B});
  Tensor loss = empty_contiguous(samples, {B}), slope = empty_contiguous(samples, {B}, compute_type(a.dtype));
  Tensor signs = empty_contiguous(samples, {grad_mask ? B : 0, 2, L}, ScalarType::Byte);
  a.L = L;
  a.samples = samples.const_data_ptr();
  a.q_user = q_user.const_data_ptr();
  a.q_item = q_item.const_data_ptr();
  a.lam = lam.const_data_ptr();
  a.loss = loss.mutable_data_ptr();
  a.slope = slope.mutable_data_ptr();
  a.signs = grad_mask ? out<uint8_t>(signs) : nullptr;
  const int64_t bytes = wasserstein_scratch(a);
  auto* const f = ORD_DISPATCH(wasserstein_quantile_loss_forward);
  const bool ok = parallel_with_scratch(B, 8 + 4096 / L, bytes,
                                        [&](int64_t begin, int64_t end, void* scratch) { f(a, scratch, begin, end); });
  STD_TORCH_CHECK(ok, "wasserstein_quantile_loss: out of memory for ", bytes, " bytes a thread");
  return {loss, signs, slope};
}

// The gradients by samples, q_user and q_item [B, L] and by lam [B], empty where not wanted.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& signs_, const Tensor& slope_, const Tensor& lam_,
                                                    const Tensor& g_, int64_t grad_mask) {
  WassersteinBackwardArgs a{};
  a.dtype = dtype_of("g", g_);
  check_dtype("signs", signs_, ScalarType::Byte);
  STD_TORCH_CHECK(signs_.dim() == 3 && signs_.size(1) == 2 && signs_.size(2) > 0,
                  "signs: expected shape [B, 2, L], got ", shape_text(signs_));
  const int64_t B = signs_.size(0), L = signs_.size(2);
  const Tensor signs = as_contiguous(signs_), g = checked_contiguous("g", g_, g_.scalar_type(), {B}),
               slope = checked_contiguous("slope", slope_, compute_type(a.dtype), {B}),
               lam = checked_contiguous("lam", lam_, compute_type(a.dtype), {B});
  const auto gradient = [&](int i) {
    return grad_mask >> i & 1 ? empty_contiguous(g, {B, L}) : empty_contiguous(g, {0});
  };
  Tensor g_samples = gradient(0), g_q_user = gradient(1), g_q_item = gradient(2);
  Tensor g_lam = empty_contiguous(slope, {grad_mask & 8 ? B : 0});
  const auto data = [&](int i, Tensor& t) { return grad_mask >> i & 1 ? t.mutable_data_ptr() : nullptr; };
  a.L = L;
  a.signs = in<uint8_t>(signs);
  a.slope = slope.const_data_ptr();
  a.lam = lam.const_data_ptr();
  a.g = g.const_data_ptr();
  a.g_samples = data(0, g_samples);
  a.g_q_user = data(1, g_q_user);
  a.g_q_item = data(2, g_q_item);
  a.g_lam = data(3, g_lam);
  auto* const f = ORD_DISPATCH(wasserstein_quantile_loss_backward);
  torch::stable::parallel_for(0, B, 1 + 16384 / L, [&](int64_t begin, int64_t end) { f(a, begin, end); });
  return {g_samples, g_q_user, g_q_item, g_lam};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("wasserstein_quantile_loss", TORCH_BOX(&forward));
  m.impl("_wasserstein_quantile_loss", TORCH_BOX(&forward));
  m.impl("wasserstein_quantile_loss_backward", TORCH_BOX(&backward));
  m.impl("_wasserstein_quantile_loss_backward", TORCH_BOX(&backward));
}
