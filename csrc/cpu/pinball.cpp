// pinball on the CPU: check, allocate, share out the rows.
#include "cpu/checks.h"
#include "cpu/ops/pinball_args.h"

ORD_DECLARE_KERNEL(pinball_forward, const PinballArgs&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(pinball_backward, const PinballArgs&, int64_t begin, int64_t end);

namespace {

bool is_one_row(const Tensor& levels) { return levels.dim() == 2 && levels.stride(0) == 0 && levels.stride(1) == 1; }

// The checked inputs, contiguous, and the kernels' arguments for them.
struct Call {
  Call(const Tensor& q_, const Tensor& y_, const Tensor& levels_)
      : q(as_contiguous(q_)), y(as_contiguous(y_)), levels(is_one_row(levels_) ? levels_ : as_contiguous(levels_)) {
    a.is_double = check_float_or_double("q", q);
    STD_TORCH_CHECK(q.dim() == 2, "q: expected shape [B, L], got ", shape_text(q));
    B = q.size(0);
    a.L = q.size(1);
    check_dtype("y", y, q.scalar_type());
    check_shape("y", y, {B});
    check_like("levels", levels, q);
    a.level_step = is_one_row(levels) ? 0 : a.L;
    a.q = q.const_data_ptr();
    a.y = y.const_data_ptr();
    a.levels = levels.const_data_ptr();
  }

  template <class Kernel>
  void run(Kernel* kernel) const {
    torch::stable::parallel_for(0, B, 1 + 16384 / (a.L + 1),
                                [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  }

  const Tensor q, y, levels;
  PinballArgs a{};
  int64_t B = 0;
};

Tensor pinball(const Tensor& q, const Tensor& y, const Tensor& levels) {
  Call call(q, y, levels);
  Tensor out = empty_contiguous(call.q, {call.B, call.a.L});
  call.a.out = out.mutable_data_ptr();
  call.run(ORD_DISPATCH(pinball_forward));
  return out;
}

// The gradients by q [B, L] and y [B], empty where not wanted.
std::tuple<Tensor, Tensor> pinball_backward(const Tensor& q, const Tensor& y, const Tensor& levels,
                                            const OptionalTensor& g_, int64_t grad_mask) {
  Call call(q, y, levels);
  const int64_t B = call.B, L = call.a.L;
  const OptionalTensor g = checked_contiguous("g", g_, q.scalar_type(), {B, L});
  const bool by_q = grad_mask & 1, by_y = grad_mask & 2;
  Tensor g_q = by_q ? empty_contiguous(call.q, {B, L}) : empty_contiguous(call.q, {0});
  Tensor g_y = empty_contiguous(call.q, {by_y ? B : 0});
  call.a.g = data_or_null(g);
  call.a.g_q = by_q ? g_q.mutable_data_ptr() : nullptr;
  call.a.g_y = by_y ? g_y.mutable_data_ptr() : nullptr;
  call.run(ORD_DISPATCH(pinball_backward));
  return {g_q, g_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("pinball", TORCH_BOX(&pinball));
  m.impl("_pinball", TORCH_BOX(&pinball));
  m.impl("pinball_backward", TORCH_BOX(&pinball_backward));
  m.impl("_pinball_backward", TORCH_BOX(&pinball_backward));
}
