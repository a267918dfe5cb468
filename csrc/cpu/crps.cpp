// crps on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"
#include "cpu/ops/crps_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(crps_forward, const CrpsArgs&, void* scratch, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(crps_backward, const CrpsBackwardArgs&, int64_t begin, int64_t end);

namespace {

// (value [B], slopes [B, L] where a gradient is wanted)
std::tuple<Tensor, Tensor> crps(const Tensor& samples_, const Tensor& y_, bool fair, int64_t grad_mask) {
  CrpsArgs a{};
  a.is_double = check_float_or_double("samples", samples_);
  STD_TORCH_CHECK(samples_.dim() == 2, "samples: expected shape [B, L], got ", shape_text(samples_));
  const int64_t B = samples_.size(0), L = samples_.size(1);
  STD_TORCH_CHECK(L >= 1 + fair && L <= (INT64_C(1) << 30), "samples: expected L from ", 1 + fair, " to 2^30, got ", L);
  const Tensor samples = as_contiguous(samples_), y = checked_contiguous("y", y_, samples_.scalar_type(), {B});
  Tensor value = empty_contiguous(samples, {B}), slopes = empty_contiguous(samples, {grad_mask ? B : 0, L});
  a.L = L;
  a.per_pair = 1.0 / ((double)L * (double)(fair ? L - 1 : L));
  a.samples = samples.const_data_ptr();
  a.y = y.const_data_ptr();
  a.value = value.mutable_data_ptr();
  a.slopes = grad_mask ? slopes.mutable_data_ptr() : nullptr;
  const int64_t bytes = crps_scratch(a);
  auto* const f = ORD_DISPATCH(crps_forward);
  const bool ok = parallel_with_scratch(B, 8 + 4096 / L, bytes,
                                        [&](int64_t begin, int64_t end, void* scratch) { f(a, scratch, begin, end); });
  STD_TORCH_CHECK(ok, "crps: out of memory for ", bytes, " bytes a thread");
  return {value, slopes};
}

// The gradients by samples [B, L] and y [B], empty where not wanted.
std::tuple<Tensor, Tensor> crps_backward(const Tensor& slopes_, const Tensor& g_, bool, int64_t grad_mask) {
  CrpsBackwardArgs a{};
  a.is_double = check_float_or_double("slopes", slopes_);
  STD_TORCH_CHECK(slopes_.dim() == 2, "slopes: expected shape [B, L], got ", shape_text(slopes_));
  const int64_t B = slopes_.size(0), L = slopes_.size(1);
  const Tensor slopes = as_contiguous(slopes_), g = checked_contiguous("g", g_, slopes_.scalar_type(), {B});
  const bool by_samples = grad_mask & 1, by_y = grad_mask & 2;
  Tensor g_samples = by_samples ? empty_contiguous(g, {B, L}) : empty_contiguous(g, {0});
  Tensor g_y = empty_contiguous(g, {by_y ? B : 0});
  a.L = L;
  a.slopes = slopes.const_data_ptr();
  a.g = g.const_data_ptr();
  a.g_samples = by_samples ? g_samples.mutable_data_ptr() : nullptr;
  a.g_y = by_y ? g_y.mutable_data_ptr() : nullptr;
  auto* const f = ORD_DISPATCH(crps_backward);
  torch::stable::parallel_for(0, B, 1 + 16384 / (L + 1), [&](int64_t begin, int64_t end) { f(a, begin, end); });
  return {g_samples, g_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("crps", TORCH_BOX(&crps));
  m.impl("_crps", TORCH_BOX(&crps));
  m.impl("crps_backward", TORCH_BOX(&crps_backward));
  m.impl("_crps_backward", TORCH_BOX(&crps_backward));
}
