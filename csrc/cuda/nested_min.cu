// nested_min and its backward: rows that fit into shared memory.
#include "increments_widths.h"
#include "kernels/nested_min.h"

namespace {

using namespace increments;

template <class T>
Capacity<T> capacity_of(const MaybeTensor& rows, std::optional<double> cap) {
  const double number = cap ? *cap : INFINITY;
  return {in<T>(rows), static_cast<Compute<T>>(number), rows.has_value() || number != INFINITY};
}
std::tuple<Tensor, Tensor> nested_min(const Tensor& v_, const Tensor& w_, const MaybeTensor& capacity_,
                                      std::optional<double> cap) {
  STD_TORCH_CHECK(v_.dim() == 2 && v_.size(1) > 0, "increments: expected [B, K]");
  const int64_t B = v_.size(0), K = v_.size(1);
  const ScalarType type = v_.scalar_type();
  const Tensor v = as_contiguous(v_), w = checked_widths(w_, type, B, K);
  const MaybeTensor capacity = checked_contiguous("capacity", capacity_, type, {B});
  Tensor value = torch::stable::new_empty(v, {B}), clipped = torch::stable::new_empty(v, {B, K});
  if (B == 0) {
    return {value, clipped};
  }
  const OnDevice on(v);
  for_dtype("increments", v, [&](auto zero) {
    using T = decltype(zero);
    const int tiles = w.dim() == 1 ? 1 : 2;
    const int64_t threads = row_threads("nested_min", on, tiles_bytes<T>(1, K, tiles));
    launch("nested_min", &nested_min_kernel<T>, dim3(blocks_of(B, threads)), dim3(threads),
           tiles_bytes<T>(threads, K, tiles), on.stream, in<T>(v), widths_of<T>(w), capacity_of<T>(capacity, cap),
           out<T>(value), out<T>(clipped), B, static_cast<int>(K));
  });
  return {value, clipped};
}

// Of shared widths: their gradient as partial sums [blocks, K], in the type that is computed in.
std::tuple<Tensor, Tensor, Tensor> nested_min_backward(const Tensor& v_, const Tensor& w_, const MaybeTensor& capacity_,
                                                       const MaybeTensor& g_value_, const MaybeTensor& g_clipped_,
                                                       std::optional<double> cap, int64_t grad_mask) {
  STD_TORCH_CHECK(v_.dim() == 2 && v_.size(1) > 0, "increments: expected [B, K]");
  const int64_t B = v_.size(0), K = v_.size(1);
  const ScalarType type = v_.scalar_type();
  const Tensor v = as_contiguous(v_), w = checked_widths(w_, type, B, K);
  const MaybeTensor capacity = checked_contiguous("capacity", capacity_, type, {B});
  const MaybeTensor g_value = checked_contiguous("g_value", g_value_, type, {B});
  const MaybeTensor g_clipped = checked_contiguous("g_clipped", g_clipped_, type, {B, K});
  const bool wanted = grad_mask & 2, shared = w.dim() == 1;
  Tensor gv = torch::stable::new_empty(v, {B, K}), gc = torch::stable::new_empty(v, {capacity ? B : 0});
  if (B == 0) {
    return {gv, torch::stable::new_empty(w, {0, K}, compute_type(type)), gc};
  }
  const OnDevice on(v);
  Tensor gw = gv;
  for_dtype("increments", v, [&](auto zero) {
    using T = decltype(zero);
    const int tiles = g_clipped ? 3 : 2;
    const int64_t threads = row_threads("nested_min_backward", on, tiles_bytes<T>(1, K, tiles)),
                  blocks = blocks_of(B, threads);
    gw = !wanted  ? torch::stable::new_empty(w, {0})
         : shared ? torch::stable::new_empty(w, {blocks, K}, compute_type(type))
                  : torch::stable::new_empty(w, {B, K});
    NestedGradients<T> g{in<T>(g_value), in<T>(g_clipped), out<T>(gv), {}, {}, {}};
    if (wanted && shared) {
      g.w = out<Compute<T>>(gw);
    } else if (wanted) {
      g.w_rows = out<T>(gw);
    }
    if (capacity) {
      g.c = out<T>(gc);
    }
    launch("nested_min_backward", &nested_min_backward_kernel<T>, dim3(blocks), dim3(threads),
           tiles_bytes<T>(threads, K, tiles), on.stream, in<T>(v), widths_of<T>(w), capacity_of<T>(capacity, cap), g, B,
           static_cast<int>(K));
  });
  return {gv, gw, gc};
}

}  // namespace

ORD_CUDA_OPS(m) {
  m.impl("nested_min", TORCH_BOX(&nested_min));
  m.impl("nested_min_backward", TORCH_BOX(&nested_min_backward));
}
