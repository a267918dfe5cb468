// _vmath(x, which): the kernels' own exp, tanh, ... on a tensor, so that tests can state their errors.
#include "cpu/checks.h"

ORD_DECLARE_KERNEL(vmath_f32, int, const float*, float*, int64_t);
ORD_DECLARE_KERNEL(vmath_f64, int, const double*, double*, int64_t);

namespace {

Tensor vmath(const Tensor& x_, int64_t which) {
  const bool is_double = check_float_or_double("x", x_);
  STD_TORCH_CHECK(which >= 0 && which < (is_double ? 7 : 9), "which: expected the number of a function, got ", which);
  const Tensor x = as_contiguous(x_);
  Tensor y = empty_contiguous_like(x);
  if (is_double) {
    ORD_DISPATCH(vmath_f64)(static_cast<int>(which), in<double>(x), out<double>(y), x.numel());
  } else {
    ORD_DISPATCH(vmath_f32)(static_cast<int>(which), in<float>(x), out<float>(y), x.numel());
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("_vmath", TORCH_BOX(&vmath)); }
