// The gradients of planar_flow: planar_flow_gradients.h, compiled for this direction, and what both directions share.
#pragma once
#include "cpu/ops/planar_flow_gradients.h"

namespace ORD_ISA {

void planar_flow_backward(const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  flow_backward<false>(a, begin, end, scratch);
}

void planar_flow_combine(const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  const auto combine = [&](const auto& flow, auto* memory) {
    for (int64_t g = begin; g < end; ++g) {
      flow.combine(g, memory);
    }
  };
  if (a.scaled) {
    combine(FlowGroupsBackward<double, 0, true>(a), (double*)scratch);
  } else if (a.row_type == DType::f64) {
    combine(FlowGroupsBackward<double, 0, false>(a), (double*)scratch);
  } else {
    combine(FlowGroupsBackward<float, 0, false>(a), (float*)scratch);
  }
}

}  // namespace ORD_ISA
