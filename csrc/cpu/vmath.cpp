// _vmath(x, which): the kernels' own exp, tanh, ... on a tensor, so that tests can state their errors.
#include "cpu/torch.h"

#define ORD_DECLARE(isa)                                \
  namespace isa {                                       \
  bool vmath_f32(int, const float*, float*, int64_t);   \
  bool vmath_f64(int, const double*, double*, int64_t); \
  }
ORD_DECLARE(base)
ORD_DECLARE(avx2)
ORD_DECLARE(avx512)

namespace {

Tensor vmath(const Tensor& x_, int64_t which) {
  const Tensor x = torch::stable::contiguous(x_);
  Tensor y = torch::stable::empty_like(x);
  const bool f64 = x.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(f64 || x.scalar_type() == ScalarType::Float, "x: expected float32 or float64, got another dtype");
  const bool known = f64 ? ORD_DISPATCH(vmath_f64)((int)which, in<double>(x), out<double>(y), x.numel())
                         : ORD_DISPATCH(vmath_f32)((int)which, in<float>(x), out<float>(y), x.numel());
  STD_TORCH_CHECK(known, "which: expected the number of a function, got ", which);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("_vmath", TORCH_BOX(&vmath)); }
