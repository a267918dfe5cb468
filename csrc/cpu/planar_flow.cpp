// planar_flow and planar_flow_inverse, forward and backward: check, allocate, run.
#include "cpu/planar_flow.h"

using namespace planar;

namespace {

// u, w [B, K, D] or [K, D]; b [B, K] or [K].
void set_params(FlowArgs& a, const Tensor& z, const Tensor& u, const Tensor& w) {
  STD_TORCH_CHECK(u.dim() == 2 || u.dim() == 3, "u: expected [B, K, D] or [K, D], got ", shape_text(u));
  const bool shared = u.dim() == 2;
  set_rows(a, z, shared);
  a.K = u.size(-2);
  STD_TORCH_CHECK(a.K > 0 && a.D > 0, "u: expected at least one layer and one column, got ", shape_text(u));
  const auto shape = shared ? std::vector<int64_t>{a.K, a.D} : std::vector<int64_t>{z.size(0), a.K, a.D};
  check_shape("u", u, shape);
  check_shape("w", w, shape);
  check_dtype("u", u, z.scalar_type());
  check_dtype("w", w, z.scalar_type());
  a.u = u.const_data_ptr(), a.w = w.const_data_ptr();
  a.u_group = shared ? 0 : u.stride(0), a.u_layer = u.stride(-2);
  a.w_group = shared ? 0 : w.stride(0), a.w_layer = w.stride(-2);
}

void set_z(FlowArgs& a, const Tensor& z) { a.z = z.const_data_ptr(), a.z_row = row_stride(z); }

template <bool kInverse>
std::tuple<Tensor, Tensor, Tensor> flow(const Tensor& z_, const Tensor& u_, const Tensor& w_, const Tensor& b,
                                        int64_t mode) {
  FlowArgs a{};
  const DType type = dtype_of("z", z_);
  a.mode = mode_of(mode);
  STD_TORCH_CHECK(!kInverse || a.mode != 0, "mode: expected 1 or 2 for the inverse, got 0");
  STD_TORCH_CHECK(z_.dim() >= 2 && u_.dim() >= 2 && w_.dim() >= 2, "z, u, w: expected at least 2 dimensions");
  const Tensor z = with_even_rows(z_), u = with_dense_rows(u_), w = with_dense_rows(w_);
  set_params(a, z, u, w);
  check_dtype("b", b, z.scalar_type());
  check_shape("b", b, u.dim() == 2 ? std::vector<int64_t>{a.K} : std::vector<int64_t>{z.size(0), a.K});
  a.b = b.const_data_ptr();
  a.b_group = u.dim() == 2 ? 0 : b.stride(0), a.b_layer = b.stride(-1);

  auto rows = rows_shape(z);
  auto out = empty_contiguous(z, shape_of(z)), log_det = empty_contiguous(z, rows, compute_type(z));
  rows.push_back(a.K);
  auto act = empty_contiguous(z, rows, compute_type(z));
  if (a.G * a.N > 0) {
    set_z(a, z);
    a.z_out = out.mutable_data_ptr(), a.log_det = log_det.mutable_data_ptr(), a.act = act.mutable_data_ptr();
    run(type, false, kInverse, a);
  }
  return {out, log_det, act};
}

template <bool kInverse>
std::tuple<Tensor, Tensor, Tensor, Tensor> flow_backward(const Tensor& z_, const Tensor& act_, const Tensor& u_,
                                                         const Tensor& w_, const Tensor& gz_, const Tensor& gl_,
                                                         int64_t mode) {
  FlowArgs a{};
  const DType type = dtype_of("z", z_);
  a.mode = mode_of(mode);
  STD_TORCH_CHECK(z_.dim() >= 2 && u_.dim() >= 2 && w_.dim() >= 2, "z, u, w: expected at least 2 dimensions");
  check_shape("gz", gz_, shape_of(z_));
  check_dtype("gz", gz_, z_.scalar_type());
  const Tensor z = with_even_rows(z_), u = with_dense_rows(u_), w = with_dense_rows(w_), gz = with_even_rows(gz_);
  set_params(a, z, u, w);
  auto rows = rows_shape(z);
  check_shape("gl", gl_, rows);
  check_dtype("gl", gl_, compute_type(z));
  rows.push_back(a.K);
  check_shape("act", act_, rows);
  check_dtype("act", act_, compute_type(z));
  const Tensor act = as_contiguous(act_), gl = as_contiguous(gl_);

  const auto shape = shape_of(u), heads = std::vector<int64_t>(shape.begin(), shape.end() - 1);
  auto dz = empty_contiguous(z, shape_of(z));
  if (a.G * a.N == 0) {
    return {dz, torch::stable::new_zeros(u, shape), torch::stable::new_zeros(u, shape),
            torch::stable::new_zeros(u, heads)};
  }
  auto du = empty_contiguous(u, shape), dw = empty_contiguous(u, shape), db = empty_contiguous(u, heads);
  set_z(a, z);
  a.act_in = act.const_data_ptr(), a.gz = gz.const_data_ptr(), a.gz_row = row_stride(gz), a.gl = gl.const_data_ptr();
  a.z_out = dz.mutable_data_ptr(), a.gu = du.mutable_data_ptr(), a.gw = dw.mutable_data_ptr(),
  a.gb = db.mutable_data_ptr();
  a.gu_group = a.gw_group = a.K * a.D, a.gu_layer = a.gw_layer = a.D, a.gb_group = a.K, a.gb_layer = 1;
  plan_backward(type, a);
  run_backward(type, false, kInverse, a, z);
  return {dz, du, dw, db};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("planar_flow", TORCH_BOX(&flow<false>));
  m.impl("_planar_flow", TORCH_BOX(&flow<false>));
  m.impl("planar_flow_backward", TORCH_BOX(&flow_backward<false>));
  m.impl("_planar_flow_backward", TORCH_BOX(&flow_backward<false>));
  m.impl("planar_flow_inverse", TORCH_BOX(&flow<true>));
  m.impl("_planar_flow_inverse", TORCH_BOX(&flow<true>));
  m.impl("planar_flow_inverse_backward", TORCH_BOX(&flow_backward<true>));
  m.impl("_planar_flow_inverse_backward", TORCH_BOX(&flow_backward<true>));
}
