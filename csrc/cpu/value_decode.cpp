// value_decode, whole sequences in one call: check, pack the weights once, share out the rows.
#include <optional>

#include "cpu/checks.h"
#include "cpu/ops/value_decode_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(value_decode_pack, const ValueDecodeArgs&);
ORD_DECLARE_KERNEL(value_decode, const ValueDecodeArgs&, int64_t begin, int64_t end, void* scratch);

namespace {

// All weights, contiguous, after their shapes are checked; sets L, F and projects_memory.
std::vector<Tensor> checked_weights(const std::vector<Tensor>& weights, ScalarType type, ValueDecodeArgs& a) {
  const int64_t each = a.pre_norm ? 16 : 18, count = weights.size();
  STD_TORCH_CHECK(count >= 3 + each, "weights: expected at least one layer");
  a.L = (count - 3) / each;
  const int64_t rest = (count - 3) % each - (a.pre_norm ? 2 : 0);
  STD_TORCH_CHECK(rest == 0 || rest == 2, "weights: expected three, ", each,
                  " for each layer, the memory's projection or none, and the last norm or none");
  a.projects_memory = rest == 2;
  STD_TORCH_CHECK(a.projects_memory || a.M == a.d,
                  "memory: expected the width of the embedding, as there is no projection");
  STD_TORCH_CHECK(weights[11].dim() == 2, "weights: expected matrices");
  a.F = weights[11].size(0);
  const int64_t d = a.d, F = a.F;
  STD_TORCH_CHECK(F > 0, "weights: expected at least one hidden unit");
  std::vector<Tensor> checked;
  checked.reserve(count);
  const auto put = [&](std::initializer_list<int64_t> shape) {
    checked.push_back(checked_contiguous("weights", weights[checked.size()], type, shape));
  };
  const auto linear = [&](int64_t outputs, int64_t inputs) {
    put({outputs, inputs});
    put({outputs});
  };
  const auto norm = [&] {
    put({d});
    put({d});
  };
  put({a.V, d});
  linear(a.V, d);
  for (int64_t i = 0; i < a.L; ++i) {
    linear(3 * d, d);  // q, k, v
    for (int j = 0; j < 3; ++j) {
      linear(d, d);  // attention's output, the memory's value and output
    }
    linear(F, d);
    linear(d, F);
    norm();
    norm();
    if (!a.pre_norm) {
      norm();
    }
  }
  if (a.projects_memory) {
    linear(d, a.M);
  }
  if (a.pre_norm) {
    norm();
  }
  return checked;
}

// Rows that share a step: their keys and values within half a megabyte, if that leaves enough of them.
int64_t rows_together(const ValueDecodeArgs& a) {
  const int64_t each = 2 * a.L * a.steps * padded(a.d) * (a.is_double ? 8 : 4);
  int64_t rows = (int64_t{1} << 19) / each / 6 * 6;
  rows = rows < 12 ? 12 : rows > kDecodeRows ? kDecodeRows : rows;
  return rows < a.B ? rows : a.B;
}

// Tensors beside the weights, as they come, or checked and contiguous: kept for as long as their pointers are used.
struct Inputs {
  Tensor memory, values;
  OptionalTensor position, capacity, row_ids, draw_ids;
};

void check_sizes(const ValueDecodeArgs& a, int64_t window, bool has_row_ids) {
  STD_TORCH_CHECK(a.M > 0 && a.d > 0 && a.V > kFirstValue && a.steps > 0,
                  "widths, steps: expected at least 1, and 4 tokens");
  STD_TORCH_CHECK(a.steps < 4294967295 && window >= 0 && a.mixup >= kNoMixup && a.mixup <= kFullMixup,
                  "steps, window, mixup: out of range");
  STD_TORCH_CHECK(a.heads > 0 && a.d % a.heads == 0, "heads: expected a divisor of the width");
  STD_TORCH_CHECK(a.temperature >= 0 && (a.temperature == 0 || has_row_ids),
                  "row_ids: expected row ids, as there is noise");
}

// Checks the inputs and sets their pointers.
void check_inputs(Inputs& t, ScalarType type, ValueDecodeArgs& a) {
  t.memory = checked_contiguous("memory", t.memory, type, {a.B, a.M});
  t.values = checked_contiguous("values", t.values, type, {a.V});
  if (t.position) {
    STD_TORCH_CHECK(t.position->dim() == 2 && t.position->size(0) >= a.steps, "position: expected one for every step");
    t.position = checked_contiguous("position", t.position, type, {t.position->size(0), a.d});
  }
  t.capacity = checked_contiguous("capacity", t.capacity, type, {a.B});
  t.row_ids = checked_contiguous("row_ids", t.row_ids, ScalarType::Long, {a.B});
  t.draw_ids = checked_contiguous("draw_ids", t.draw_ids, ScalarType::Long, {a.B});
  a.memory = t.memory.const_data_ptr(), a.values = t.values.const_data_ptr();
  a.position = data_or_null(t.position), a.capacity = data_or_null(t.capacity);
  a.row_ids = static_cast<const int64_t*>(data_or_null(t.row_ids));
  a.draw_ids = static_cast<const int64_t*>(data_or_null(t.draw_ids));
  a.constrained = a.monotone || t.capacity || !(a.cap == __builtin_inf());
}

// The calling thread keeps the packed weights behind its own scratch: memory that is warm at the next call.
void run(ValueDecodeArgs& a) {
  const int64_t size = a.is_double ? 8 : 4, bytes = (decode_scratch(a) * size + 63) / 64 * 64,
                all = bytes + decode_packed(a) * size;
  void* const scratch = thread_scratch(all);
  STD_TORCH_CHECK(scratch, "no memory for ", all, " bytes of scratch");
  a.packed = static_cast<char*>(scratch) + bytes;
  ORD_DISPATCH(value_decode_pack)(a);
  auto* const kernel = ORD_DISPATCH(value_decode);
  const bool done =
      parallel_with_scratch(a.B, 12, bytes, [&](int64_t begin, int64_t end, void* s) { kernel(a, begin, end, s); });
  STD_TORCH_CHECK(done, "no memory for ", bytes, " bytes of scratch per thread");
}

std::tuple<Tensor, Tensor, Tensor> value_decode(const Tensor& memory, const Tensor& values,
                                                const std::vector<Tensor>& weights, const OptionalTensor& position,
                                                const OptionalTensor& capacity, const OptionalTensor& row_ids,
                                                const OptionalTensor& draw_ids, int64_t heads, bool pre_norm, bool gelu,
                                                double eps, int64_t steps, int64_t window, int64_t mixup, bool windowed,
                                                double temperature, bool monotone, OptionalNumber cap, int64_t seed) {
  ValueDecodeArgs a{};
  a.is_double = check_float_or_double("memory", memory);
  STD_TORCH_CHECK(memory.dim() == 2 && !weights.empty() && weights[0].dim() == 2, "memory, weights: expected matrices");
  a.pre_norm = pre_norm, a.gelu = gelu, a.windowed = windowed, a.monotone = monotone;
  a.B = memory.size(0), a.M = memory.size(1), a.V = weights[0].size(0), a.d = weights[0].size(1);
  a.heads = heads, a.steps = steps, a.half = window / 2, a.mixup = mixup, a.eps = eps;
  a.temperature = temperature, a.cap = cap.value_or(INFINITY), a.seed = seed;
  check_sizes(a, window, row_ids.has_value());
  const ScalarType type = memory.scalar_type();
  const std::vector<Tensor> checked = checked_weights(weights, type, a);
  Inputs inputs{memory, values, position, capacity, row_ids, draw_ids};
  check_inputs(inputs, type, a);

  Tensor value = empty_contiguous(memory, {a.B});
  Tensor tokens = empty_contiguous(memory, {a.B, steps}, ScalarType::Long);
  Tensor lengths = empty_contiguous(memory, {a.B}, ScalarType::Long);
  if (a.B > 0) {
    std::vector<const void*> pointers;
    for (const Tensor& w : checked) {
      pointers.push_back(w.const_data_ptr());
    }
    a.weights = pointers.data();
    a.value = value.mutable_data_ptr(), a.tokens = out<int64_t>(tokens), a.lengths = out<int64_t>(lengths);
    // Only then is the first layer's input a token's embedding alone.
    a.tabulate_qkv = !pre_norm && !position && mixup == kNoMixup && a.B * steps > 2 * a.V;
    a.rows_together = rows_together(a);
    run(a);
  }
  return {value, tokens, lengths};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("value_decode", TORCH_BOX(&value_decode)); }
