// The gradients of planar_flow_inverse: planar_flow_gradients.h, compiled for this direction.
#pragma once
#include "cpu/ops/planar_flow_gradients.h"

namespace ORD_ISA {

void planar_flow_inverse_backward(const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  flow_backward<true>(a, begin, end, scratch);
}

}  // namespace ORD_ISA
