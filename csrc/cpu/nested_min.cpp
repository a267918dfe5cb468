// nested_min, forward and backward: check, allocate, share out the rows.
#include "cpu/increments_calls.h"

namespace {

using namespace increments;

std::tuple<Tensor, Tensor> nested_min(const Tensor& v_, const Tensor& w_, const OptionalTensor& capacity_,
                                      OptionalNumber cap) {
  STD_TORCH_CHECK(v_.dim() == 2 && w_.dim() >= 1, "increments: expected [B, K], widths [K] or [B, K]");
  const Tensor v = as_contiguous(v_), w = as_contiguous(w_);
  const OptionalTensor capacity = as_contiguous(capacity_);
  Args a = arguments(v, w, v.size(1));
  set_capacity(a, v, capacity, cap);
  auto value = empty_contiguous(v, {a.B}), clipped = empty_contiguous(v, {a.B, a.K});
  a.value = value.mutable_data_ptr();
  a.out = clipped.mutable_data_ptr();
  a.stream = use_stream(a, a.out);
  auto* f = ORD_DISPATCH(nested_min);
  on_rows(a, a.K, f);
  return {value, clipped};
}

std::tuple<Tensor, Tensor, Tensor> nested_min_backward(const Tensor& v_, const Tensor& w_,
                                                       const OptionalTensor& capacity_, const OptionalTensor& gy_,
                                                       const OptionalTensor& go_, OptionalNumber cap,
                                                       int64_t grad_mask) {
  STD_TORCH_CHECK(v_.dim() == 2 && w_.dim() >= 1, "increments: expected [B, K], widths [K] or [B, K]");
  const Tensor v = as_contiguous(v_), w = as_contiguous(w_);
  const OptionalTensor capacity = as_contiguous(capacity_), gy = as_contiguous(gy_), go = as_contiguous(go_);
  Args a = arguments(v, w, v.size(1));
  set_capacity(a, v, capacity, cap);
  if (gy) {
    check("g_value", *gy, v, a.B, -1);
  }
  if (go) {
    check("g_clipped", *go, v, a.B, a.K);
  }
  const bool want_w = grad_mask & 2;
  auto gv = empty_contiguous(v, {a.B, a.K});
  auto gw = want_w ? empty_contiguous_like(w) : empty_contiguous(w, {0});
  auto gc = empty_contiguous(v, {capacity ? a.B : 0});
  a.g_value = data_or_null(gy);
  a.g_out = data_or_null(go);
  a.gv = gv.mutable_data_ptr();
  if (!a.shared && want_w) {
    a.gw = gw.mutable_data_ptr();
  }
  if (capacity) {
    a.gc = gc.mutable_data_ptr();
  }
  a.stream = use_stream(a, a.gv) && (!a.gw || use_stream(a, a.gw));
  auto* f = ORD_DISPATCH(nested_min_backward);
  if (a.shared && want_w) {
    const auto sums = in_blocks(
        a, a.K, 1, 1,
        [&](const Args& b, int64_t begin, int64_t end, double* to, double* scratch) { f(b, begin, end, to, scratch); });
    write(sums.data(), gw, a.K);
  } else {
    on_rows(a, a.K, [&](const Args& b, int64_t begin, int64_t end) { f(b, begin, end, nullptr, nullptr); });
  }
  return {gv, gw, gc};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("nested_min", TORCH_BOX(&nested_min));
  m.impl("_nested_min", TORCH_BOX(&nested_min));
  m.impl("nested_min_backward", TORCH_BOX(&nested_min_backward));
  m.impl("_nested_min_backward", TORCH_BOX(&nested_min_backward));
}
