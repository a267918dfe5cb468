// value_decode, whole sequences in one call: check, prepare the weights once, share out the rows.
#include <optional>

#include "cpu/checks.h"
#include "cpu/ops/value_decode_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(value_decode_prepare, const DecodeArgs&);
ORD_DECLARE_KERNEL(value_decode, const DecodeArgs&, int64_t begin, int64_t end, void*);

namespace {

// All weights, dense, after their shapes are checked; sets L, F and project.
std::vector<Tensor> dense_weights(const std::vector<Tensor>& given, ScalarType type, DecodeArgs& a) {
  const int64_t each = a.pre ? 16 : 18, count = given.size();
  STD_TORCH_CHECK(count >= 3 + each, "weights: expected at least one layer");
  a.L = (count - 3) / each;
  const int64_t rest = (count - 3) % each - (a.pre ? 2 : 0);
  STD_TORCH_CHECK(rest == 0 || rest == 2, "weights: expected three, ", each,
                  " for each layer, the memory's projection or none, and the last norm or none");
  a.project = rest == 2;
  STD_TORCH_CHECK(a.project || a.M == a.d, "memory: expected the width of the embedding, as there is no projection");
  STD_TORCH_CHECK(given[11].dim() == 2, "weights: expected matrices");
  a.F = given[11].size(0);
  const int64_t d = a.d, F = a.F;
  STD_TORCH_CHECK(F > 0, "weights: expected at least one hidden unit");
  std::vector<Tensor> made;
  made.reserve(count);
  const auto put = [&](std::initializer_list<int64_t> shape) {
    made.push_back(checked_contiguous("weights", given[made.size()], type, shape));
  };
  const auto linear = [&](int64_t out, int64_t in) { put({out, in}), put({out}); };
  const auto norm = [&] { put({d}), put({d}); };
  put({a.V, d}), linear(a.V, d);
  for (int64_t i = 0; i < a.L; ++i) {
    linear(3 * d, d), linear(d, d), linear(d, d), linear(d, d), linear(F, d), linear(d, F), norm(), norm();
    if (!a.pre) {
      norm();
    }
  }
  if (a.project) {
    linear(d, a.M);
  }
  if (a.pre) {
    norm();
  }
  return made;
}

// Rows that share a step: their keys and values within half a megabyte, if that leaves enough of them.
int64_t rows_together(const DecodeArgs& a) {
  const int64_t each = 2 * a.L * a.steps * padded(a.d) * (a.is_double ? 8 : 4);
  int64_t rows = (int64_t{1} << 19) / each / 6 * 6;
  rows = rows < 12 ? 12 : rows > kDecodeRows ? kDecodeRows : rows;
  return rows < a.B ? rows : a.B;
}

std::tuple<Tensor, Tensor, Tensor> decode(const Tensor& memory_, const Tensor& values_,
                                          const std::vector<Tensor>& weights_, const OptionalTensor& position_,
                                          const OptionalTensor& capacity_, const OptionalTensor& row_ids_,
                                          const OptionalTensor& draw_ids_, int64_t heads, bool pre, bool gelu,
                                          double eps, int64_t steps, int64_t window, int64_t mixup, bool windowed,
                                          double temperature, bool monotone, double cap, int64_t seed) {
  const ScalarType type = memory_.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "memory: expected float32 or float64");
  STD_TORCH_CHECK(memory_.dim() == 2 && !weights_.empty() && weights_[0].dim() == 2,
                  "memory, weights: expected matrices");
  DecodeArgs a{};
  a.is_double = type == ScalarType::Double;
  a.pre = pre, a.gelu = gelu, a.windowed = windowed, a.monotone = monotone;
  a.B = memory_.size(0), a.M = memory_.size(1), a.V = weights_[0].size(0), a.d = weights_[0].size(1);
  a.heads = heads, a.steps = steps, a.half = window / 2, a.mixup = mixup, a.eps = eps, a.temperature = temperature,
  a.cap = cap, a.seed = seed;
  STD_TORCH_CHECK(a.M > 0 && a.d > 0 && a.V > kFirstValue && steps > 0,
                  "widths, steps: expected at least 1, and 4 tokens");
  STD_TORCH_CHECK(steps < 4294967295 && window >= 0 && mixup >= kNoMixup && mixup <= kFullMixup,
                  "steps, window, mixup: out of range");
  STD_TORCH_CHECK(heads > 0 && a.d % heads == 0, "heads: expected a divisor of the width");
  STD_TORCH_CHECK(temperature >= 0 && (temperature == 0 || row_ids_), "row_ids: expected row ids, as there is noise");
  const std::vector<Tensor> weights = dense_weights(weights_, type, a);
  const Tensor memory = checked_contiguous("memory", memory_, type, {a.B, a.M}),
               values = checked_contiguous("values", values_, type, {a.V});
  OptionalTensor position, capacity, row_ids, draw_ids;
  if (position_) {
    STD_TORCH_CHECK(position_->dim() == 2 && position_->size(0) >= steps, "position: expected one for every step");
    position = checked_contiguous("position", *position_, type, {position_->size(0), a.d});
  }
  if (capacity_) {
    capacity = checked_contiguous("capacity", *capacity_, type, {a.B});
  }
  if (row_ids_) {
    row_ids = checked_contiguous("row_ids", *row_ids_, ScalarType::Long, {a.B});
  }
  if (draw_ids_) {
    draw_ids = checked_contiguous("draw_ids", *draw_ids_, ScalarType::Long, {a.B});
  }
  a.constrained = monotone || capacity || !(cap == __builtin_inf());

  auto value = torch::stable::new_empty(memory, {a.B});
  auto tokens = torch::stable::new_empty(memory, {a.B, steps}, ScalarType::Long),
       lengths = torch::stable::new_empty(memory, {a.B}, ScalarType::Long);
  if (a.B == 0) {
    return {value, tokens, lengths};
  }
  std::vector<const void*> pointers;
  for (const Tensor& w : weights) {
    pointers.push_back(w.const_data_ptr());
  }
  a.weights = pointers.data();
  a.memory = memory.const_data_ptr(), a.values = values.const_data_ptr();
  a.position = position ? position->const_data_ptr() : nullptr,
  a.capacity = capacity ? capacity->const_data_ptr() : nullptr;
  a.row_ids = row_ids ? in<int64_t>(*row_ids) : nullptr, a.draw_ids = draw_ids ? in<int64_t>(*draw_ids) : nullptr;
  a.value = value.mutable_data_ptr(), a.tokens = out<int64_t>(tokens), a.lengths = out<int64_t>(lengths);
  a.table = !pre && !position && mixup == kNoMixup &&
            a.B * steps > 2 * a.V;  // only then is a layer's input a token's embedding
  a.rows = rows_together(a);

  // The calling thread keeps the packed weights behind its own scratch: memory that is warm at the next call.
  const int64_t size = a.is_double ? 8 : 4, bytes = (decode_scratch(a) * size + 63) / 64 * 64,
                all = bytes + decode_shared(a) * size;
  void* const scratch = thread_scratch(all);
  STD_TORCH_CHECK(scratch, "no memory for ", all, " bytes of scratch");
  a.shared = static_cast<char*>(scratch) + bytes;
  ORD_DISPATCH(value_decode_prepare)(a);
  auto* const run = ORD_DISPATCH(value_decode);
  const bool ok =
      parallel_with_scratch(a.B, 12, bytes, [&](int64_t begin, int64_t end, void* s) { run(a, begin, end, s); });
  STD_TORCH_CHECK(ok, "no memory for ", bytes, " bytes of scratch per thread");
  return {value, tokens, lengths};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("value_decode", TORCH_BOX(&decode)); }
