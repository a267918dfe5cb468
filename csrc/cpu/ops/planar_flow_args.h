// What the planar flow kernels work on; the same type in every instruction set.
#pragma once
#include "common/declare_kernel.h"
#include "cpu/dtype.h"

// Rows of z [G * N, D]: N rows share one set of parameters (N = 1: each has its own). Strides in elements; rows are
// contiguous. The compute type is fp64 for fp64 rows, else fp32.
struct FlowArgs {
  DType row_type, param_type;  // storage types of z, gz and z_out; of u, w, b and their gradients
  const void *z, *u, *w, *b;
  int64_t z_row;  // stride
  int64_t u_group, u_layer, w_group, w_layer, b_group, b_layer;
  void *z_out, *log_det, *act;   // outputs, contiguous; log_det [G * N] and act [G * N, K] in the compute type
  const void *act_in, *gz, *gl;  // backward: act and gl contiguous in the compute type
  int64_t gz_row;
  void *gu, *gw, *gb;  // gradients; each is written where its parameter was read last: they may share memory
  int64_t gu_group, gu_layer, gw_group, gw_layer, gb_group, gb_layer;
  void* partial;                     // backward, parts > 1: [G * parts, K, 2 * padded(D) + 2] in the compute type
  int64_t G, N, K, D, parts, block;  // parts of a group's rows in backward; rows at a time
  bool stream;                       // write the parameters' gradients past the caches
  int mode;                          // 0 unconstrained, 1 constrained, 2 smooth
  bool scaled;   // fp64, and a layer may be extreme: w is divided by its largest number before it is squared
  int* extreme;  // set to 1 where a constrained layer's |w|^2 or correction is not within kNorms; or null
};

// Where |w|^2 and the correction c are safe, gradients by c / |w|^2 included. The product is 1.
template <class T>
constexpr T kNorms[2] = {1e-20f, 1e20f};
template <>
constexpr double kNorms<double>[2] = {1e-180, 1e180};

constexpr int64_t kFlowRows = 16;    // most rows at a time: their scalar functions are vectorised over the rows
constexpr int64_t kFlowScalars = 7;  // that a forward keeps of every row and layer
constexpr int64_t flow_padded(int64_t D) { return (D + 15) / 16 * 16; }

// Elements for a block's own parameters in fp32, where they are stored in a half type: u and w [rows, K, D], b [rows,
// K], and room to read a vector behind each.
constexpr int64_t flow_own_params(const FlowArgs& a) {
  return a.N == 1 && is_half(a.param_type) ? kFlowRows * a.K * (2 * a.D + 1) + 3 * 16 : 0;
}

// Scratch per thread, in elements of the compute type.
constexpr int64_t flow_scratch(const FlowArgs& a, bool backward) {
  const int64_t Dp = flow_padded(a.D), params = a.N > 1 ? a.K * (2 * Dp + 8) : flow_own_params(a);
  if (!backward) {
    return kFlowRows * (Dp + kFlowScalars * a.K) + params;
  }
  const int64_t states = (a.K + 1) * a.block * Dp;
  // Shared parameters: scalars, parameters, sums. Each row's own: scalars, parameters.
  if (a.N > 1) {
    return states + 5 * a.K * kFlowRows + params + 2 * a.K * (2 * Dp + 2);
  }
  return states + 10 * a.K * kFlowRows + params;
}

// Rows [begin, end) of all G * N.
ORD_DECLARE_KERNEL(planar_flow, const FlowArgs&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(planar_flow_inverse, const FlowArgs&, int64_t begin, int64_t end, void* scratch);
// Rows (N = 1) or parts of groups [begin, end).
ORD_DECLARE_KERNEL(planar_flow_backward, const FlowArgs&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(planar_flow_inverse_backward, const FlowArgs&, int64_t begin, int64_t end, void* scratch);
// Adds up the parts of the groups [begin, end), in order.
ORD_DECLARE_KERNEL(planar_flow_combine, const FlowArgs&, int64_t begin, int64_t end, void* scratch);
