// Shared by the ops that run planar flows: the kernels of each instruction set, argument checks, launches.
#pragma once
#include "cpu/checks.h"
#include "cpu/ops/planar_flow_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(planar_flow, DType, bool, bool, const FlowArgs&, int64_t, int64_t, void*);
ORD_DECLARE_KERNEL(planar_flow_backward, DType, bool, bool, const FlowArgs&, int64_t, int64_t, void*);
ORD_DECLARE_KERNEL(planar_flow_combine, DType, bool, const FlowArgs&, int64_t, void*);
ORD_DECLARE_KERNEL(add_columns, bool, const void*, int64_t, int64_t, void*);

namespace planar {

// Rows are read as contiguous vectors; whatever lies between the rows stays where it is.
inline Tensor with_dense_rows(const Tensor& t) { return t.size(-1) <= 1 || t.stride(-1) == 1 ? t : as_contiguous(t); }
// z [B, D] or [B, N, D] with one stride over all rows.
inline Tensor with_even_rows(const Tensor& z) {
  const Tensor d = with_dense_rows(z);
  if (d.dim() == 2 || d.size(0) <= 1 || d.size(1) <= 1 || d.stride(0) == d.size(1) * d.stride(1)) {
    return d;
  }
  return as_contiguous(d);
}
inline int64_t row_stride(const Tensor& z) { return z.dim() == 2 || z.size(1) == 1 ? z.stride(0) : z.stride(1); }

inline int mode_of(int64_t mode) {
  STD_TORCH_CHECK(mode >= 0 && mode <= 2, "mode: expected 0, 1 or 2, got ", mode);
  return (int)mode;
}

// Sizes of z [B, D] | [B, N, D]; `shared`: all rows are one group.
inline void set_rows(FlowArgs& a, const Tensor& z, bool shared) {
  STD_TORCH_CHECK(z.dim() == 2 || z.dim() == 3, "z: expected [B, D] or [B, N, D], got ", shape_text(z));
  const int64_t B = z.size(0), N = z.dim() == 3 ? z.size(1) : 1;
  a.D = z.size(-1);
  a.G = shared ? 1 : B;
  a.N = shared ? B * N : N;
}

inline std::vector<int64_t> rows_shape(const Tensor& z) {
  return z.dim() == 3 ? std::vector<int64_t>{z.size(0), z.size(1)} : std::vector<int64_t>{z.size(0)};
}
inline int64_t grain(const FlowArgs& a) {  // rows worth starting a thread for: some 10 us of work
  const int64_t rows = 32768 / (a.K * a.D);
  return rows > kFlowRows ? rows : kFlowRows;
}

inline void run(DType type, bool wide, bool inverse, const FlowArgs& a) {
  const auto kernel = ORD_DISPATCH(planar_flow);
  const bool ok = parallel_with_scratch(
      a.G * a.N, grain(a), flow_scratch(a, false) * compute_size(type),
      [&](int64_t begin, int64_t end, void* scratch) { kernel(type, wide, inverse, a, begin, end, scratch); });
  STD_TORCH_CHECK(ok, "planar_flow: out of memory");
}

// How a group's rows are cut for its gradient sums, and how many rows go at a time: by the shapes alone, so that the
// result does not depend on the number of threads.
inline void plan_backward(DType type, FlowArgs& a) {
  const int64_t by_rows = (a.N + 255) / 256, wanted = (63 + a.G) / a.G;
  a.parts = by_rows < wanted ? by_rows : wanted;
  const int64_t row = a.K * flow_padded(a.D) * compute_size(type), fit = (512 << 10) / row;
  // Gradients larger than a good part of the caches would push out everything else, and each line would be read before
  // it is written.
  const int64_t bytes = a.G * a.K * a.D * compute_size(type);
  a.stream = a.N == 1 && use_streaming_stores(a.gu, bytes, 2 * bytes) && use_streaming_stores(a.gw, bytes, 2 * bytes);
  a.block = fit > kFlowRows ? kFlowRows : fit > 1 ? fit : 1;
}

inline void run_backward(DType type, bool wide, bool inverse, FlowArgs& a, const Tensor& z) {
  const auto kernel = ORD_DISPATCH(planar_flow_backward);
  const int64_t bytes = flow_scratch(a, true) * compute_size(type);
  const auto body = [&](int64_t begin, int64_t end, void* scratch) {
    kernel(type, wide, inverse, a, begin, end, scratch);
  };
  bool ok;
  if (a.N == 1) {
    ok = parallel_with_scratch(a.G, grain(a), bytes, body);
  } else if (a.parts == 1) {
    const int64_t groups = grain(a) / a.N;
    ok = parallel_with_scratch(a.G, groups > 1 ? groups : 1, bytes, body);
  } else {
    auto partial = torch::stable::new_empty(z, {a.G * a.parts, a.K * (2 * flow_padded(a.D) + 2)}, compute_type(z));
    a.partial = partial.mutable_data_ptr();
    const auto combine = ORD_DISPATCH(planar_flow_combine);
    ok = parallel_with_scratch(a.G * a.parts, 1, bytes, body);
    ok = ok && parallel_with_scratch(a.G, 1, bytes, [&](int64_t begin, int64_t end, void* scratch) {
           for (int64_t g = begin; g < end; ++g) {
             combine(type, wide, a, g, scratch);
           }
         });
  }
  STD_TORCH_CHECK(ok, "planar_flow_backward: out of memory");
}

}  // namespace planar
