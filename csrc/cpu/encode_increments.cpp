// encode_increments, forward and backward: check, allocate, share out the rows.
#include "cpu/increments_calls.h"

namespace {

using namespace increments;

Tensor encode_increments(const Tensor& y_, const Tensor& w_) {
  STD_TORCH_CHECK(y_.dim() == 1 && w_.dim() >= 1, "y: expected [B], widths [K] or [B, K]");
  const Tensor y = as_contiguous(y_), w = as_contiguous(w_);
  Args a = arguments(y, w, w.size(-1));
  auto v = empty_contiguous(y, {a.B, a.K});
  a.out = v.mutable_data_ptr();
  a.stream = use_stream(a, a.out);
  auto* f = ORD_DISPATCH(encode_increments);
  in_blocks(a, 1, 0, 1,
            [&](const Args& b, int64_t begin, int64_t end, double*, double* scratch) { f(b, begin, end, scratch); });
  return v;
}

std::tuple<Tensor, Tensor> encode_increments_backward(const Tensor& y_, const Tensor& w_, const OptionalTensor& g_,
                                                      int64_t grad_mask) {
  STD_TORCH_CHECK(y_.dim() == 1 && w_.dim() >= 1, "y: expected [B], widths [K] or [B, K]");
  const Tensor y = as_contiguous(y_), w = as_contiguous(w_);
  Args a = arguments(y, w, w.size(-1));
  auto gy = empty_contiguous_like(y), gw = empty_contiguous_like(w);
  if (!g_) {
    return {torch::stable::fill_(gy, 0), torch::stable::fill_(gw, 0)};
  }
  check("g", *g_, y, a.B, a.K);
  const Tensor g = as_contiguous(*g_);
  a.g_out = g.const_data_ptr();
  a.gv = gy.mutable_data_ptr();
  if (!a.shared) {
    a.gw = gw.mutable_data_ptr();
  }
  auto* f = ORD_DISPATCH(encode_increments_backward);
  const auto sums = in_blocks(a, 1, 2, 3, [&](const Args& b, int64_t begin, int64_t end, double* to, double* scratch) {
    f(b, begin, end, to, scratch);
  });
  if (a.shared) {
    std::vector<double> total(a.K);
    double later = 0;
    for (int64_t k = a.K - 1; k >= 0; --k) {
      total[k] = sums[padded(a.K) + k] - later;
      later += sums[k];
    }
    write(total.data(), gw, a.K);
  }
  return {gy, gw};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("encode_increments", TORCH_BOX(&encode_increments));
  m.impl("_encode_increments", TORCH_BOX(&encode_increments));
  m.impl("encode_increments_backward", TORCH_BOX(&encode_increments_backward));
  m.impl("_encode_increments_backward", TORCH_BOX(&encode_increments_backward));
}
