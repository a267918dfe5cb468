// planar_flow, forward and backward: check, allocate, share out the rows.
#include "cpu/planar_flow_calls.h"

namespace {

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& z, const Tensor& u, const Tensor& w, const Tensor& b,
                                           int64_t mode) {
  planar::Inputs inputs(z, u, w, mode);
  return planar::map(inputs, b, ORD_DISPATCH(planar_flow));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& z, const Tensor& act, const Tensor& u,
                                                    const Tensor& w, const Tensor& gz, const Tensor& gl, int64_t mode) {
  planar::Inputs inputs(z, u, w, mode);
  return planar::map_backward(inputs, act, gz, gl, ORD_DISPATCH(planar_flow_backward));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("planar_flow", TORCH_BOX(&forward));
  m.impl("_planar_flow", TORCH_BOX(&forward));
  m.impl("planar_flow_backward", TORCH_BOX(&backward));
  m.impl("_planar_flow_backward", TORCH_BOX(&backward));
}
