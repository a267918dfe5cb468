// wasserstein_quantile_loss of up to 64 samples a row, up to fp32; its backward, of any number.
#include "kernels/wasserstein_quantile_loss.h"
#include "torch.h"

namespace {

using namespace wasserstein;

enum GradMask : int64_t { kSamples = 1, kUser = 2, kItem = 4, kLam = 8 };

Rows rows_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16: return {{}, in<bf16>(t), {}};
    case ScalarType::Half: return {{}, {}, in<__half>(t)};
    default: return {in<float>(t), {}, {}};
  }
}
OutRows out_rows(Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16: return {{}, out<bf16>(t), {}};
    case ScalarType::Half: return {{}, {}, out<__half>(t)};
    default: return {out<float>(t), {}, {}};
  }
}

std::tuple<Tensor, Tensor, Tensor> loss(const Tensor& samples_, const Tensor& q_user_, const Tensor& q_item_,
                                        const Tensor& lam_, int64_t grad_mask) {
  STD_TORCH_CHECK(samples_.dim() == 2 && samples_.size(1) > 0 && samples_.size(1) <= 64,
                  "samples: expected [B, L <= 64]");
  const int64_t B = samples_.size(0), L = samples_.size(1);
  const ScalarType type = samples_.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "samples: expected float32, bfloat16 or float16");
  const Tensor samples = as_contiguous(samples_), q_user = checked_contiguous("q_user", q_user_, type, {B, L});
  const Tensor q_item = checked_contiguous("q_item", q_item_, type, {B, L});
  const Tensor lam = checked_contiguous("lam", lam_, ScalarType::Float, {B});
  Tensor value = torch::stable::new_empty(samples, {B});
  Tensor signs = torch::stable::new_empty(samples, {grad_mask ? B : 0, 2, L}, ScalarType::Byte);
  Tensor slope = torch::stable::new_empty(samples, {B}, ScalarType::Float);
  if (B == 0) {
    return {value, signs, slope};
  }
  const OnDevice on(samples);
  const Outputs outputs{out_rows(value), grad_mask ? out<uint8_t>(signs) : Out<uint8_t>{}, out<float>(slope)};
  const auto go = [&](auto kernel) {
    launch("wasserstein_quantile_loss", kernel, dim3(blocks_of(B, kThreads)), dim3(kThreads),
           3 * tile_bytes<float>(kThreads, L), on.stream, rows_of(samples), rows_of(q_user), rows_of(q_item),
           in<float>(lam), outputs, B, static_cast<int>(L));
  };
  L <= 32 ? go(&loss_kernel<32>) : go(&loss_kernel<64>);
  return {value, signs, slope};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> loss_backward(const Tensor& signs_, const Tensor& slope_, const Tensor& lam_,
                                                         const Tensor& g_, int64_t grad_mask) {
  STD_TORCH_CHECK(signs_.dim() == 3, "signs: expected [B, 2, L]");
  const int64_t B = signs_.size(0), L = signs_.size(2);
  const Tensor signs = checked_contiguous("signs", signs_, ScalarType::Byte, {B, 2, L}), g = as_contiguous(g_);
  const ScalarType computed = compute_type(g_.scalar_type());
  const Tensor slope = checked_contiguous("slope", slope_, computed, {B});
  const Tensor lam = checked_contiguous("lam", lam_, computed, {B});
  Tensor grads[3] = {g, g, g}, lam_grad = torch::stable::new_empty(slope, {grad_mask & kLam ? B : 0});
  for (int i = 0; i < 3; ++i) {
    grads[i] = grad_mask >> i & 1 ? torch::stable::new_empty(g, {B, L}) : torch::stable::new_empty(g, {0});
  }
  if (B == 0) {
    return {grads[0], grads[1], grads[2], lam_grad};
  }
  const OnDevice on(g);
  for_dtype("g", g, [&](auto zero) {
    using T = decltype(zero);
    const auto wanted = [&](int i) { return grad_mask >> i & 1 ? out<T>(grads[i]) : Out<T>{}; };
    const Gradients<T> outputs{wanted(0), wanted(1), wanted(2),
                               grad_mask & kLam ? out<Compute<T>>(lam_grad) : Out<Compute<T>>{}};
    launch("wasserstein_quantile_loss_backward", &loss_backward_kernel<T>, dim3(blocks_of(B, kWarps)),
           dim3(32 * kWarps), 0, on.stream, in<uint8_t>(signs), in<Compute<T>>(slope), in<Compute<T>>(lam), in<T>(g),
           outputs, B, static_cast<int>(L));
  });
  return {grads[0], grads[1], grads[2], lam_grad};
}

}  // namespace

ORD_CUDA_OPS(m) {
  m.impl("wasserstein_quantile_loss", TORCH_BOX(&loss));
  m.impl("wasserstein_quantile_loss_backward", TORCH_BOX(&loss_backward));
}
