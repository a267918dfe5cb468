// CRPS and the pinball loss on the CPU: check, allocate, share out the rows.
#include <optional>

#include "cpu/scratch.h"
#include "cpu/torch.h"

ORD_DECLARE_KERNEL(crps_forward, bool, const void*, const void*, void*, void*, double, void*, int64_t, int64_t,
                   int64_t);
ORD_DECLARE_KERNEL(crps_backward, bool, const void*, const void*, void*, void*, int64_t, int64_t, int64_t);
ORD_DECLARE_KERNEL(pinball_forward, bool, const void*, const void*, const void*, void*, int64_t, int64_t, int64_t,
                   int64_t);
ORD_DECLARE_KERNEL(pinball_backward, bool, const void*, const void*, const void*, const void*, void*, void*, int64_t,
                   int64_t, int64_t, int64_t);

namespace {

bool check_matrix(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
                  ": expected float32 or float64");
  STD_TORCH_CHECK(t.dim() == 2, name, ": expected [B, L], got ", t.dim(), " dimensions");
  return t.scalar_type() == ScalarType::Double;
}

void check_like(const char* name, const Tensor& t, const Tensor& first, bool matrix) {
  STD_TORCH_CHECK(t.scalar_type() == first.scalar_type(), name, ": expected the dtype of the first argument");
  STD_TORCH_CHECK(t.dim() == 1 + matrix && t.size(0) == first.size(0) && (!matrix || t.size(1) == first.size(1)), name,
                  matrix ? ": expected [B, L] = [" : ": expected [B], B = [", first.size(0), ", ", first.size(1), "]");
}

std::tuple<Tensor, Tensor> crps(const Tensor& samples_, const Tensor& y_, bool fair, int64_t needs) {
  const bool is_double = check_matrix("samples", samples_);
  const int64_t B = samples_.size(0), L = samples_.size(1);
  STD_TORCH_CHECK(L >= 1 + fair && L <= (INT64_C(1) << 30), "samples: expected L from ", 1 + fair, " to 2^30, got ", L);
  check_like("y", y_, samples_, false);
  const Tensor samples = as_contiguous(samples_), y = as_contiguous(y_);
  auto value = torch::stable::new_empty(samples, {B});
  auto slopes = torch::stable::new_empty(samples, {needs ? B : 0, L});
  const void *s = samples.const_data_ptr(), *t = y.const_data_ptr();
  void *v = value.mutable_data_ptr(), *d = needs ? slopes.mutable_data_ptr() : nullptr;
  const double per_pair = 1.0 / ((double)L * (double)(fair ? L - 1 : L));
  const int64_t bytes = L * (8 * (is_double ? 16 : 8) + (is_double ? 8 : 4));
  auto* f = ORD_DISPATCH(crps_forward);
  const bool ok = parallel_with_scratch(B, 8 + 4096 / L, bytes, [&](int64_t b, int64_t e, void* scratch) {
    f(is_double, s, t, v, d, per_pair, scratch, L, b, e);
  });
  STD_TORCH_CHECK(ok, "crps: out of memory for ", bytes, " bytes a thread");
  return {value, slopes};
}

std::tuple<Tensor, Tensor> crps_backward(const Tensor& slopes_, const Tensor& g_, bool, int64_t needs) {
  const bool is_double = check_matrix("slopes", slopes_);
  const int64_t B = slopes_.size(0), L = slopes_.size(1);
  check_like("g", g_, slopes_, false);
  const Tensor slopes = as_contiguous(slopes_), g = as_contiguous(g_);
  Tensor gs = needs & 1 ? torch::stable::new_empty(g, {B, L}) : torch::stable::new_empty(g, {0});
  Tensor gy = torch::stable::new_empty(g, {needs & 2 ? B : 0});
  const void *s = slopes.const_data_ptr(), *gp = g.const_data_ptr();
  void *to = needs & 1 ? gs.mutable_data_ptr() : nullptr, *by_y = needs & 2 ? gy.mutable_data_ptr() : nullptr;
  auto* f = ORD_DISPATCH(crps_backward);
  torch::stable::parallel_for(0, B, 1 + 16384 / (L + 1),
                              [&](int64_t b, int64_t e) { f(is_double, s, gp, to, by_y, L, b, e); });
  return {gs, gy};
}

// Levels [B, L], and the step from row to row, 0 where all rows are one.
std::tuple<Tensor, int64_t> rows(const Tensor& levels) {
  if (levels.stride(0) == 0 && levels.stride(1) == 1) {
    return {levels, 0};
  }
  return {as_contiguous(levels), levels.size(1)};
}

Tensor pinball(const Tensor& q_, const Tensor& y_, const Tensor& levels_) {
  const bool is_double = check_matrix("q", q_);
  const int64_t B = q_.size(0), L = q_.size(1);
  check_like("y", y_, q_, false);
  check_like("levels", levels_, q_, true);
  const Tensor q = as_contiguous(q_), y = as_contiguous(y_);
  const auto [levels, step] = rows(levels_);
  auto out = torch::stable::new_empty(q, {B, L});
  const void *a = q.const_data_ptr(), *t = y.const_data_ptr(), *l = levels.const_data_ptr();
  void* to = out.mutable_data_ptr();
  auto* f = ORD_DISPATCH(pinball_forward);
  const int64_t by = step;
  torch::stable::parallel_for(0, B, 1 + 16384 / (L + 1),
                              [&](int64_t b, int64_t e) { f(is_double, a, t, l, to, by, L, b, e); });
  return out;
}

std::tuple<Tensor, Tensor> pinball_backward(const Tensor& q_, const Tensor& y_, const Tensor& levels_,
                                            const OptionalTensor& g_, int64_t wanted) {
  const bool is_double = check_matrix("q", q_);
  const int64_t B = q_.size(0), L = q_.size(1);
  check_like("y", y_, q_, false);
  check_like("levels", levels_, q_, true);
  if (g_) {
    check_like("g", *g_, q_, true);
  }
  const Tensor q = as_contiguous(q_), y = as_contiguous(y_);
  Tensor g;
  if (g_) {
    g = as_contiguous(*g_);
  }
  const auto [levels, step] = rows(levels_);
  Tensor gq = wanted & 1 ? torch::stable::new_empty(q, {B, L}) : torch::stable::new_empty(q, {0});
  Tensor gy = torch::stable::new_empty(q, {wanted & 2 ? B : 0});
  const void *a = q.const_data_ptr(), *t = y.const_data_ptr(), *l = levels.const_data_ptr(),
             *gp = g_ ? g.const_data_ptr() : nullptr;
  void *to = wanted & 1 ? gq.mutable_data_ptr() : nullptr, *by_y = wanted & 2 ? gy.mutable_data_ptr() : nullptr;
  auto* f = ORD_DISPATCH(pinball_backward);
  const int64_t by = step;
  torch::stable::parallel_for(0, B, 1 + 16384 / (L + 1),
                              [&](int64_t b, int64_t e) { f(is_double, a, t, l, gp, to, by_y, by, L, b, e); });
  return {gq, gy};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("crps", TORCH_BOX(&crps));
  m.impl("_crps", TORCH_BOX(&crps));
  m.impl("crps_backward", TORCH_BOX(&crps_backward));
  m.impl("_crps_backward", TORCH_BOX(&crps_backward));
  m.impl("pinball", TORCH_BOX(&pinball));
  m.impl("_pinball", TORCH_BOX(&pinball));
  m.impl("pinball_backward", TORCH_BOX(&pinball_backward));
  m.impl("_pinball_backward", TORCH_BOX(&pinball_backward));
}
