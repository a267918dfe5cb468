// The forward map of planar flows: planar_flow_map.h, compiled for this direction.
#pragma once
#include "cpu/ops/planar_flow_map.h"

namespace ORD_ISA {

void planar_flow(const FlowArgs& a, int64_t begin, int64_t end, void* scratch) {
  with_flow<FlowMap>(a, scratch, [&](const auto& flow, auto* memory) { flow.template run<false>(begin, end, memory); });
}

}  // namespace ORD_ISA
