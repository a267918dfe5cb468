// Counter-based noise on the CPU: check, allocate, share out the rows.
#include <optional>

#include "cpu/torch.h"

ORD_DECLARE_KERNEL(random_normal, const int64_t*, const int64_t*, int64_t, int64_t, int64_t, int64_t, float*, int64_t,
                   int64_t);
ORD_DECLARE_KERNEL(random_uniform, const int64_t*, const int64_t*, int64_t, int64_t, int64_t, int64_t, float*, int64_t,
                   int64_t);
ORD_DECLARE_KERNEL(philox_words, const int64_t*, const int64_t*, uint32_t*, int64_t, int64_t);

namespace {

void check_ids(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long, name, ": expected int64");
  STD_TORCH_CHECK(t.dim() == 1, name, ": expected [B], got ", t.dim(), " dimensions");
}

template <class Kernel>
Tensor noise(Kernel kernel, const Tensor& row_ids, const OptionalTensor& draw_ids, int64_t draw, int64_t seed,
             int64_t step, int64_t width) {
  check_ids("row_ids", row_ids);
  STD_TORCH_CHECK(width >= 0, "width: expected 0 or more, got ", width);
  STD_TORCH_CHECK(step >= 0 && step < (INT64_C(1) << 32), "step: expected 0 to 2^32 - 1, got ", step);
  const int64_t B = row_ids.size(0);
  const Tensor rows = as_contiguous(row_ids);
  OptionalTensor draws;
  if (draw_ids) {
    check_ids("draw_ids", *draw_ids);
    STD_TORCH_CHECK(draw_ids->size(0) == B, "draw_ids: expected [B] = [", B, "], got [", draw_ids->size(0), "]");
    draws = as_contiguous(*draw_ids);
  }
  auto o = torch::stable::new_empty(rows, {B, width}, ScalarType::Float);
  if (B == 0 || width == 0) {
    return o;
  }
  const int64_t *r = in<int64_t>(rows), *d = draws ? in<int64_t>(*draws) : nullptr;
  float* to = out<float>(o);
  torch::stable::parallel_for(0, B, 1 + 16384 / width,
                              [&](int64_t s, int64_t e) { kernel(r, d, draw, seed, step, width, to, s, e); });
  return o;
}

Tensor random_normal(const Tensor& row_ids, const OptionalTensor& draw_ids, int64_t draw, int64_t seed, int64_t step,
                     int64_t width) {
  return noise(ORD_DISPATCH(random_normal), row_ids, draw_ids, draw, seed, step, width);
}

Tensor random_uniform(const Tensor& row_ids, const OptionalTensor& draw_ids, int64_t draw, int64_t seed, int64_t step,
                      int64_t width) {
  return noise(ORD_DISPATCH(random_uniform), row_ids, draw_ids, draw, seed, step, width);
}

// The words as int32 bit patterns: uint32 has few ops in torch; the Python function views them.
Tensor philox_words(const Tensor& counter_, const Tensor& key_) {
  STD_TORCH_CHECK(counter_.scalar_type() == ScalarType::Long && key_.scalar_type() == ScalarType::Long,
                  "counter, key: expected int64");
  STD_TORCH_CHECK(counter_.dim() == 2 && counter_.size(1) == 4, "counter: expected [N, 4]");
  const int64_t N = counter_.size(0);
  STD_TORCH_CHECK(key_.dim() == 2 && key_.size(0) == N && key_.size(1) == 2, "key: expected [N, 2] with N = ", N);
  const auto counter = as_contiguous(counter_), key = as_contiguous(key_);
  auto o = torch::stable::new_empty(counter, {N, 4}, ScalarType::Int);
  auto* f = ORD_DISPATCH(philox_words);
  const int64_t *c = in<int64_t>(counter), *k = in<int64_t>(key);
  auto* to = reinterpret_cast<uint32_t*>(out<int32_t>(o));
  torch::stable::parallel_for(0, N, 4096, [&](int64_t s, int64_t e) { f(c, k, to, s, e); });
  return o;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("random_normal", TORCH_BOX(&random_normal));
  m.impl("random_uniform", TORCH_BOX(&random_uniform));
  m.impl("philox", TORCH_BOX(&philox_words));
}
