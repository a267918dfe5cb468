// encode_increments and its backward: rows that fit into shared memory.
#include "increments_widths.h"
#include "kernels/encode_increments.h"

namespace {

using namespace increments;

Tensor encode_increments(const Tensor& y_, const Tensor& w_) {
  STD_TORCH_CHECK(y_.dim() == 1 && (w_.dim() == 1 || w_.dim() == 2), "y, widths: expected [B], and [K] or [B, K]");
  const int64_t B = y_.size(0), K = w_.size(w_.dim() - 1);
  const ScalarType type = y_.scalar_type();
  const Tensor y = as_contiguous(y_), w = checked_widths(w_, type, B, K);
  Tensor increments = torch::stable::new_empty(y, {B, K});
  if (B == 0) {
    return increments;
  }
  const OnDevice on(y);
  for_dtype("y", y, [&](auto zero) {
    using T = decltype(zero);
    const int64_t threads = row_threads("encode_increments", on, tiles_bytes<T>(1, K, 1));
    launch("encode_increments", &encode_increments_kernel<T>, dim3(blocks_of(B, threads)), dim3(threads),
           tiles_bytes<T>(threads, K, 1), on.stream, in<T>(y), widths_of<T>(w), out<T>(increments), B,
           static_cast<int>(K));
  });
  return increments;
}

// Of shared widths: partial sums [blocks, 2, K] of the gradients inside and above.
std::tuple<Tensor, Tensor> encode_increments_backward(const Tensor& y_, const Tensor& w_, const MaybeTensor& g_,
                                                      int64_t /*grad_mask*/) {
  STD_TORCH_CHECK(y_.dim() == 1 && (w_.dim() == 1 || w_.dim() == 2), "y, widths: expected [B], and [K] or [B, K]");
  STD_TORCH_CHECK(g_.has_value(), "g: expected a gradient");
  const int64_t B = y_.size(0), K = w_.size(w_.dim() - 1);
  const ScalarType type = y_.scalar_type();
  const Tensor y = as_contiguous(y_), w = checked_widths(w_, type, B, K);
  const Tensor g = checked_contiguous("g", *g_, type, {B, K});
  Tensor gy = torch::stable::new_empty(y, {B});
  if (B == 0) {
    return {gy, torch::stable::new_empty(w, {0, 2, K}, compute_type(type))};
  }
  const OnDevice on(y);
  Tensor gw = gy;
  for_dtype("y", y, [&](auto zero) {
    using T = decltype(zero);
    const int64_t threads = row_threads("encode_increments_backward", on, tiles_bytes<T>(1, K, 2)),
                  blocks = blocks_of(B, threads);
    const bool shared = w.dim() == 1;
    gw = shared ? torch::stable::new_empty(w, {blocks, 2, K}, compute_type(type)) : torch::stable::new_empty(w, {B, K});
    launch("encode_increments_backward", &encode_increments_backward_kernel<T>, dim3(blocks), dim3(threads),
           tiles_bytes<T>(threads, K, 2), on.stream, in<T>(y), widths_of<T>(w), in<T>(g), out<T>(gy),
           shared ? Out<T>{} : out<T>(gw), shared ? out<Compute<T>>(gw) : Out<Compute<T>>{}, B, static_cast<int>(K));
  });
  return {gy, gw};
}

}  // namespace

ORD_CUDA_OPS(m) {
  m.impl("encode_increments", TORCH_BOX(&encode_increments));
  m.impl("encode_increments_backward", TORCH_BOX(&encode_increments_backward));
}
