// Counter-based noise on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"
#include "cpu/ops/rng_args.h"

ORD_DECLARE_KERNEL(random_normal, const NoiseArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(random_uniform, const NoiseArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(philox_words, const int64_t* counter, const int64_t* key, uint32_t* words, int64_t begin,
                   int64_t end);

namespace {

// row_ids [B], draw_ids [B] or none, then all are `draw` -> [B, width]
template <class Kernel>
Tensor noise(Kernel* kernel, const Tensor& row_ids_, const OptionalTensor& draw_ids_, NoiseArgs a) {
  STD_TORCH_CHECK(row_ids_.dim() == 1, "row_ids: expected shape [B], got ", shape_text(row_ids_));
  STD_TORCH_CHECK(a.width >= 0, "width: expected 0 or more, got ", a.width);
  STD_TORCH_CHECK(a.step >= 0 && a.step < (INT64_C(1) << 32), "step: expected 0 to 2^32 - 1, got ", a.step);
  const int64_t B = row_ids_.size(0);
  const Tensor row_ids = checked_contiguous("row_ids", row_ids_, ScalarType::Long, {B});
  const OptionalTensor draw_ids = checked_contiguous("draw_ids", draw_ids_, ScalarType::Long, {B});
  Tensor noise = empty_contiguous(row_ids, {B, a.width}, ScalarType::Float);
  if (B == 0 || a.width == 0) {
    return noise;
  }
  a.row_ids = in<int64_t>(row_ids);
  a.draw_ids = draw_ids ? in<int64_t>(*draw_ids) : nullptr;
  a.out = out<float>(noise);
  torch::stable::parallel_for(0, B, 1 + 16384 / a.width, [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  return noise;
}

Tensor random_normal(const Tensor& row_ids, const OptionalTensor& draw_ids, int64_t draw, int64_t seed, int64_t step,
                     int64_t width) {
  return noise(ORD_DISPATCH(random_normal), row_ids, draw_ids, {nullptr, nullptr, draw, seed, step, width, nullptr});
}

Tensor random_uniform(const Tensor& row_ids, const OptionalTensor& draw_ids, int64_t draw, int64_t seed, int64_t step,
                      int64_t width) {
  return noise(ORD_DISPATCH(random_uniform), row_ids, draw_ids, {nullptr, nullptr, draw, seed, step, width, nullptr});
}

// The words as int32 bit patterns: uint32 has few ops in torch; the Python function views them.
Tensor philox_words(const Tensor& counter_, const Tensor& key_) {
  STD_TORCH_CHECK(counter_.dim() == 2, "counter: expected shape [N, 4], got ", shape_text(counter_));
  const int64_t N = counter_.size(0);
  const Tensor counter = checked_contiguous("counter", counter_, ScalarType::Long, {N, 4}),
               key = checked_contiguous("key", key_, ScalarType::Long, {N, 2});
  Tensor words = empty_contiguous(counter, {N, 4}, ScalarType::Int);
  auto* const f = ORD_DISPATCH(philox_words);
  const int64_t *c = in<int64_t>(counter), *k = in<int64_t>(key);
  auto* const to = reinterpret_cast<uint32_t*>(out<int32_t>(words));
  torch::stable::parallel_for(0, N, 4096, [&](int64_t begin, int64_t end) { f(c, k, to, begin, end); });
  return words;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("random_normal", TORCH_BOX(&random_normal));
  m.impl("random_uniform", TORCH_BOX(&random_uniform));
  m.impl("philox", TORCH_BOX(&philox_words));
}
