// Gradients of planar flows and of their inverses. A block of rows first rebuilds its states from the input and the
// saved a_k (going back from z_K would cancel), then walks the layers against the direction of the map.
//
// With g the gradient of a layer's output, both maps have the same form: ga = (gradient of a), g <- g + ga w, and
//   forward: ga = sech^2 (g.uhat) + gl dlogdet/da;         gradient of uhat: t g, with g before the update
//   inverse: ga = gl dlogdet/da - sech^2 (g'.uhat) / det;  gradient of uhat: -t g, with g after it;  g' = g + gl
//   dlogdet/da w
#pragma once
#include "cpu/ops/planar_flow_groups_backward.h"
#include "cpu/ops/planar_flow_rows_backward.h"

namespace ORD_ISA {

template <bool kInverse>
static void flow_backward(const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  const auto run = [&](const auto& flow, auto* memory) { flow.template run<kInverse>(begin, end, memory); };
  if (a.N > 1) {
    with_flow<FlowGroupsBackward>(a, scratch, run);
  } else {
    with_flow<FlowRowsBackward>(a, scratch, run);
  }
}

}  // namespace ORD_ISA
