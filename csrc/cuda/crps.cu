// crps of up to 64 samples a row, fp32; its backward, of any number.
#include "kernels/crps.h"
#include "torch.h"

namespace {

using namespace crps;

constexpr int64_t kSamples = 1, kY = 2;  // bits of grad_mask

std::tuple<Tensor, Tensor> crps_forward(const Tensor& samples_, const Tensor& y_, bool fair, int64_t grad_mask) {
  STD_TORCH_CHECK(samples_.dim() == 2 && samples_.size(1) > 0 && samples_.size(1) <= 64,
                  "samples: expected [B, L <= 64]");
  const int64_t B = samples_.size(0), L = samples_.size(1);
  const Tensor samples = checked_contiguous("samples", samples_, ScalarType::Float, {B, L});
  const Tensor y = checked_contiguous("y", y_, ScalarType::Float, {B});
  Tensor value = torch::stable::new_empty(samples, {B});
  Tensor slopes = torch::stable::new_empty(samples, {grad_mask ? B : 0, L});
  if (B == 0) {
    return {value, slopes};
  }
  const OnDevice on(samples);
  const double pairs = static_cast<double>(L) * static_cast<double>(fair && L > 1 ? L - 1 : L);
  const auto go = [&](auto kernel) {
    launch("crps", kernel, dim3(blocks_of(B, kThreads)), dim3(kThreads), tile_bytes<float>(kThreads, L), on.stream,
           in<float>(samples), in<float>(y), out<float>(value), grad_mask ? out<float>(slopes) : Out<float>{}, B,
           static_cast<int>(L), static_cast<float>(1.0 / L), static_cast<float>(1.0 / pairs));
  };
  if (L <= 32) {
    grad_mask ? go(&crps_kernel<32, true>) : go(&crps_kernel<32, false>);
  } else {
    grad_mask ? go(&crps_kernel<64, true>) : go(&crps_kernel<64, false>);
  }
  return {value, slopes};
}

std::tuple<Tensor, Tensor> crps_backward(const Tensor& slopes_, const Tensor& g_, bool /*fair*/, int64_t grad_mask) {
  STD_TORCH_CHECK(slopes_.dim() == 2, "slopes: expected [B, L]");
  const int64_t B = slopes_.size(0), L = slopes_.size(1);
  const Tensor slopes = as_contiguous(slopes_), g = checked_contiguous("g", g_, slopes_.scalar_type(), {B});
  Tensor samples_grad = grad_mask & kSamples ? torch::stable::new_empty(g, {B, L}) : torch::stable::new_empty(g, {0});
  Tensor y_grad = torch::stable::new_empty(g, {grad_mask & kY ? B : 0});
  if (B == 0) {
    return {samples_grad, y_grad};
  }
  const OnDevice on(slopes);
  const auto go = [&](auto zero) {
    using T = decltype(zero);
    launch("crps_backward", &crps_backward_kernel<T>, dim3(blocks_of(B, kWarps)), dim3(32 * kWarps), 0, on.stream,
           in<T>(slopes), in<T>(g), grad_mask & kSamples ? out<T>(samples_grad) : Out<T>{},
           grad_mask & kY ? out<T>(y_grad) : Out<T>{}, B, static_cast<int>(L));
  };
  slopes.scalar_type() == ScalarType::Double ? go(double{}) : go(float{});
  return {samples_grad, y_grad};
}

}  // namespace

ORD_CUDA_OPS(m) {
  m.impl("crps", TORCH_BOX(&crps_forward));
  m.impl("crps_backward", TORCH_BOX(&crps_backward));
}
