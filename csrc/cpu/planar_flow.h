// Shared by the ops that run planar flows: the kernels of each instruction set, argument checks, launches.
#pragma once
#include <string>

#include "cpu/ops/planar_flow_args.h"
#include "cpu/scratch.h"
#include "cpu/torch.h"

#define ORD_DECLARE(isa)                                                                     \
  namespace isa {                                                                            \
  void planar_flow(FlowType, bool, bool, const FlowArgs&, int64_t, int64_t, void*);          \
  void planar_flow_backward(FlowType, bool, bool, const FlowArgs&, int64_t, int64_t, void*); \
  void planar_flow_combine(FlowType, bool, const FlowArgs&, int64_t, void*);                 \
  void add_columns(bool, const void*, int64_t, int64_t, void*);                              \
  }
ORD_DECLARE(base)
ORD_DECLARE(avx2)
ORD_DECLARE(avx512)
#undef ORD_DECLARE

namespace planar {

inline std::string shape_text(const Tensor& t) {
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); ++i) {
    s += (i ? ", " : "") + std::to_string(t.size(i));
  }
  return s + "]";
}

inline void check_shape(const char* name, const Tensor& t, const std::vector<int64_t>& expected) {
  bool same = t.dim() == (int64_t)expected.size();
  for (size_t i = 0; same && i < expected.size(); ++i) {
    same = t.size(i) == expected[i];
  }
  if (same) {
    return;
  }
  std::string s;
  for (const int64_t e : expected) {
    s += (s.empty() ? "" : ", ") + std::to_string(e);
  }
  STD_TORCH_CHECK(false, name, ": expected shape [", s, "], got ", shape_text(t));
}

inline FlowType flow_type(const char* name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return FlowType::f32;
    case ScalarType::Double: return FlowType::f64;
    case ScalarType::BFloat16: return FlowType::bf16;
    case ScalarType::Half: return FlowType::f16;
    default: STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16, got another dtype");
  }
}

inline void check_type(const char* name, const Tensor& t, ScalarType expected) {
  STD_TORCH_CHECK(t.is_cpu(), name, ": expected a tensor on the CPU, got one elsewhere");
  STD_TORCH_CHECK(t.scalar_type() == expected, name, ": expected another dtype (code ", (int)expected, "), got ",
                  (int)t.scalar_type());
}

inline ScalarType compute_type(const Tensor& z) {
  return z.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline int64_t compute_size(FlowType type) { return type == FlowType::f64 ? 8 : 4; }

// Rows are read as contiguous vectors; whatever lies between the rows stays where it is.
inline Tensor with_dense_rows(const Tensor& t) {
  return t.size(-1) <= 1 || t.stride(-1) == 1 ? t : torch::stable::contiguous(t);
}
// z [B, D] or [B, N, D] with one stride over all rows.
inline Tensor with_even_rows(const Tensor& z) {
  const Tensor d = with_dense_rows(z);
  if (d.dim() == 2 || d.size(0) <= 1 || d.size(1) <= 1 || d.stride(0) == d.size(1) * d.stride(1)) {
    return d;
  }
  return torch::stable::contiguous(d);
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
inline std::vector<int64_t> shape_of(const Tensor& t) {
  std::vector<int64_t> s;
  for (int64_t i = 0; i < t.dim(); ++i) {
    s.push_back(t.size(i));
  }
  return s;
}

inline int64_t grain(const FlowArgs& a) {  // rows worth starting a thread for: some 10 us of work
  const int64_t rows = 32768 / (a.K * a.D);
  return rows > kFlowRows ? rows : kFlowRows;
}

inline void run(FlowType type, bool wide, bool inverse, const FlowArgs& a) {
  const auto kernel = ORD_DISPATCH(planar_flow);
  const bool ok = parallel_with_scratch(
      a.G * a.N, grain(a), flow_scratch(a, false) * compute_size(type),
      [&](int64_t begin, int64_t end, void* scratch) { kernel(type, wide, inverse, a, begin, end, scratch); });
  STD_TORCH_CHECK(ok, "planar_flow: out of memory");
}

// How a group's rows are cut for its gradient sums, and how many rows go at a time: by the shapes alone, so that the
// result does not depend on the number of threads.
inline void plan_backward(FlowType type, FlowArgs& a) {
  const int64_t by_rows = (a.N + 255) / 256, wanted = (63 + a.G) / a.G;
  a.parts = by_rows < wanted ? by_rows : wanted;
  const int64_t row = a.K * flow_padded(a.D) * compute_size(type), fit = (512 << 10) / row;
  // Gradients larger than a good part of the caches would push out everything else, and each line would be read before
  // it is written.
  const int64_t bytes = a.G * a.K * a.D * compute_size(type);
  a.stream = a.N == 1 && past_caches(a.gu, bytes, 2 * bytes) && past_caches(a.gw, bytes, 2 * bytes);
  a.block = fit > kFlowRows ? kFlowRows : fit > 1 ? fit : 1;
}

inline void run_backward(FlowType type, bool wide, bool inverse, FlowArgs& a, const Tensor& z) {
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
