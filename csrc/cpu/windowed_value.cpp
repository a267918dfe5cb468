// windowed_value, forward and backward: check, allocate, share out the rows.
#include "cpu/token_checks.h"

// scratch: scratch_size elements of the compute type; sums [P] or null: the rows' share of the gradient of the values
// is added.
ORD_DECLARE_KERNEL(windowed_value, const tokens::TokenArgs&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(windowed_value_backward, const tokens::TokenArgs&, int64_t begin, int64_t end, void* scratch,
                   double* sums);

namespace {

using tokens::Call;

Tensor windowed_value(const Tensor& logits, const Tensor& values, int64_t window) {
  Call c(logits, "values", values, 1, window);
  Tensor value = empty_contiguous(values, {c.a.R});
  c.a.out = value.mutable_data_ptr();
  auto* const f = ORD_DISPATCH(windowed_value);
  c.for_rows([&](int64_t begin, int64_t end, void* scratch) { f(c.a, begin, end, scratch); });
  return value;
}

std::tuple<Tensor, Tensor> windowed_value_backward(const Tensor& logits, const Tensor& values, const OptionalTensor& g_,
                                                   int64_t window, int64_t grad_mask) {
  Call c(logits, "values", values, 1, window);
  tokens::Gradients to(c, values, grad_mask);
  if (!g_) {
    return to.zeros();
  }
  const Tensor g = checked_contiguous("g", *g_, values.scalar_type(), {c.a.R});
  c.a.g = g.const_data_ptr();
  auto* const f = ORD_DISPATCH(windowed_value_backward);
  if (grad_mask & 2) {
    c.table_gradient(to.table, [&](int64_t begin, int64_t end, void* scratch, void*, double* sums) {
      f(c.a, begin, end, scratch, sums);
    });
  } else if (grad_mask & 1) {
    c.for_rows([&](int64_t begin, int64_t end, void* scratch) { f(c.a, begin, end, scratch, nullptr); });
  }
  return {to.logits, to.table};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("windowed_value", TORCH_BOX(&windowed_value));
  m.impl("_windowed_value", TORCH_BOX(&windowed_value));
  m.impl("windowed_value_backward", TORCH_BOX(&windowed_value_backward));
  m.impl("_windowed_value_backward", TORCH_BOX(&windowed_value_backward));
}
