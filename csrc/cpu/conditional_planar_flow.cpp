// conditional_planar_flow: planar_flow on h @ weight.T + bias, in blocks of rows whose parameters stay in cache.
// Backward makes each block's parameters again and turns them into their gradients in place. Workspace: one block of
// parameters (about half a MB), and for half precision fp32 copies of the weight and of a block of h.
//
// The matrix products are our own (gemm/gemm.h). Torch's ran at 100 of the 256 GFLOP/s of the processor this was
// measured on, and each call of one costs microseconds, which made blocks large.
#include <array>

#include "cpu/gemm/gemm_args.h"
#include "cpu/planar_flow_calls.h"

ORD_DECLARE_KERNEL(gemm, const GemmArgs&, int64_t begin, int64_t end, void* scratch);
// sums [C] += the sums over the rows of x [rows, C].
ORD_DECLARE_KERNEL(add_columns, bool is_double, const void* x, int64_t rows, int64_t C, void* sums);

using namespace planar;

namespace {

constexpr int64_t kBlockBytes = 1 << 19;

// A view of dense memory, to change its type.
Tensor matrix(const void* data, int64_t rows, int64_t columns, ScalarType type) {
  return torch::stable::from_blob(const_cast<void*>(data), {rows, columns}, {columns, 1},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}
// By the rows of c; the sums of none depend on how they are shared out.
void multiply(const GemmArgs& g) {
  const auto kernel = ORD_DISPATCH(gemm);
  const int64_t grain =
      (int64_t{1} << 20) / (g.N * g.K + 1) + 6;  // rows worth starting a thread for: some 10 us of work
  const bool ok = parallel_with_scratch(
      g.M, grain, gemm_scratch(g), [&](int64_t begin, int64_t end, void* scratch) { kernel(g, begin, end, scratch); });
  STD_TORCH_CHECK(ok, "conditional_planar_flow: out of memory");
}

// A matrix in the compute type, by its strides in elements.
struct MatrixView {
  const void* p;
  int64_t row, column;
};

struct Conditional {
  FlowArgs a{};
  bool half;  // z is of a half type, parameters are computed in fp32
  ScalarType storage, compute;
  int64_t B, N, H, C, rows, size;  // C = K (2D + 1); rows per block; bytes of a storage element
  Tensor z, h, weight, bias;       // weight and bias in the compute type
  Tensor params;                   // one block [rows, C]
  int extreme = 0;                 // set by a kernel that meets an extreme layer

  Conditional(const Tensor& z_, const Tensor& h_, const Tensor& weight_, const Tensor& bias_, int64_t mode)
      : storage(z_.scalar_type()), compute(compute_type(z_)) {
    a.mode = mode_of(mode);
    STD_TORCH_CHECK(z_.dim() == 2 || z_.dim() == 3, "z: expected [B, D] or [B, N, D], got ", shape_text(z_));
    z = as_contiguous(z_);
    set_rows(a, z, false);
    a.param_type = a.row_type == DType::f64 ? DType::f64 : DType::f32;
    B = a.G;
    N = a.N;
    STD_TORCH_CHECK(h_.dim() == 2, "h: expected [B, H], got ", shape_text(h_));
    H = h_.size(1);
    C = weight_.dim() == 2 ? weight_.size(0) : 0;
    STD_TORCH_CHECK(C > 0 && C % (2 * a.D + 1) == 0 && a.D > 0,
                    "weight: expected [K (2D + 1), H] with 2D + 1 = ", 2 * a.D + 1, ", got ", shape_text(weight_));
    a.K = C / (2 * a.D + 1);
    check_shape("h", h_, {B, H});
    check_shape("weight", weight_, {C, H});
    check_shape("bias", bias_, {C});
    check_dtype("h", h_, storage);
    check_dtype("weight", weight_, storage);
    check_dtype("bias", bias_, storage);
    half = storage != compute;
    size = (int64_t)z.element_size();
    h = as_contiguous(h_);
    weight = as_contiguous(half ? torch::stable::to(weight_, compute) : weight_);
    bias = as_contiguous(half ? torch::stable::to(bias_, compute) : bias_);
    const int64_t fit = kBlockBytes / (C * compute_size(a.row_type)) / kFlowRows * kFlowRows;
    rows = fit < kFlowRows ? kFlowRows : fit;
    rows = rows < B ? rows : B;
    params = torch::stable::new_empty(z, {rows, C}, compute);
    const auto* const p = (const char*)params.const_data_ptr();
    const int64_t D = a.D, e = compute_size(a.row_type);
    a.u = p;
    a.w = p + D * e;
    a.b = p + 2 * D * e;
    a.u_group = a.w_group = a.b_group = C;
    a.u_layer = a.w_layer = a.b_layer = 2 * D + 1;
    a.z_row = D;
  }

  // to [M, N] = start + x [M, K] y [K, N]
  GemmArgs product(std::array<int64_t, 3> MNK, MatrixView x, MatrixView y, GemmStart start, void* to,
                   const void* bias = nullptr) const {
    const auto [M, N, K] = MNK;
    const bool is_double = compute == ScalarType::Double;
    return {is_double, M, N, K, x.p, y.p, bias, x.row, x.column, y.row, y.column, start, to, N};
  }
  // Row r of a tensor [B, N, width] in the storage type, or of bytes `e` an element.
  static char* at(const void* p, int64_t element, int64_t e) { return (char*)p + element * e; }

  // Rows [r, r + n) of h in the compute type.
  Tensor block_h(int64_t r, int64_t n) const {
    const Tensor part = matrix(at(h.const_data_ptr(), r * H, size), n, H, storage);
    return half ? torch::stable::to(part, compute) : part;
  }

  // The block of rows [r, r + n): its parameters, and the arguments of the flow.
  FlowArgs start(int64_t r, int64_t n, const Tensor& h_block) {
    multiply(product({n, C, H}, {h_block.const_data_ptr(), H, 1}, {weight.const_data_ptr(), 1, H}, GemmStart::bias,
                     params.mutable_data_ptr(), bias.const_data_ptr()));
    FlowArgs b = a;
    b.G = n;
    b.z = at(z.const_data_ptr(), r * N * a.D, size);
    b.extreme = a.mode != 0 ? &extreme : nullptr;
    return b;
  }

  // u, w [n, K, D] and b [n, K] of a block of parameters or of their gradients.
  std::tuple<Tensor, Tensor, Tensor> split(const Tensor& block, int64_t n) const {
    const int64_t D = a.D, K = a.K, layer = 2 * D + 1, e = compute_size(a.row_type);
    const auto view = [&](int64_t first, std::vector<int64_t> shape, std::vector<int64_t> strides) {
      return torch::stable::from_blob(at(block.const_data_ptr(), first, e), shape, strides,
                                      torch::stable::Device(torch::headeronly::DeviceType::CPU), compute);
    };
    return {view(0, {n, K, D}, {C, layer, 1}), view(D, {n, K, D}, {C, layer, 1}), view(2 * D, {n, K}, {C, layer})};
  }
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& z, const Tensor& h, const Tensor& weight, const Tensor& bias,
                                           int64_t mode) {
  Conditional c(z, h, weight, bias, mode);
  const int64_t D = c.a.D, K = c.a.K, e = compute_size(c.a.row_type);
  auto shape = rows_shape(c.z);
  auto out = torch::stable::new_empty(c.z, shape_of(c.z)), log_det = torch::stable::new_empty(c.z, shape, c.compute);
  shape.push_back(K);
  auto act = torch::stable::new_empty(c.z, shape, c.compute);
  if (c.B * c.N == 0) {
    return {out, log_det, act};
  }
  for (int64_t r = 0; r < c.B; r += c.rows) {
    const int64_t n = c.B - r < c.rows ? c.B - r : c.rows;
    FlowArgs a = c.start(r, n, c.block_h(r, n));
    a.z_out = c.at(out.mutable_data_ptr(), r * c.N * D, c.size);
    a.log_det = c.at(log_det.mutable_data_ptr(), r * c.N, e);
    a.act = c.at(act.mutable_data_ptr(), r * c.N * K, e);
    run(a, ORD_DISPATCH(planar_flow));
    if (c.extreme) {
      const auto [u, w, b] = c.split(c.params, n);
      redo_extreme_rows(rows_of(c.z, r, n), u, w, b, a.mode, ORD_DISPATCH(planar_flow),
                        {rows_of(out, r, n), rows_of(log_det, r, n), rows_of(act, r, n)});
    }
    c.extreme = 0;
  }
  return {out, log_det, act};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& z, const Tensor& act_, const Tensor& h,
                                                    const Tensor& weight, const Tensor& bias, const Tensor& gz_,
                                                    const Tensor& gl_, int64_t mode) {
  Conditional c(z, h, weight, bias, mode);
  const int64_t D = c.a.D, K = c.a.K, C = c.C, H = c.H, e = compute_size(c.a.row_type);
  auto shape = rows_shape(c.z);
  check_shape("gz", gz_, shape_of(c.z));
  check_dtype("gz", gz_, c.storage);
  check_shape("gl", gl_, shape);
  check_dtype("gl", gl_, c.compute);
  shape.push_back(K);
  check_shape("act", act_, shape);
  check_dtype("act", act_, c.compute);
  const Tensor act = as_contiguous(act_), gl = as_contiguous(gl_), gz = as_contiguous(gz_);

  auto dz = torch::stable::new_empty(c.z, shape_of(c.z)), dh = torch::stable::new_empty(c.z, {c.B, H});
  auto dweight = torch::stable::new_zeros(c.z, {C, H}, c.compute),
       dbias = torch::stable::new_zeros(c.z, {C}, c.compute);
  auto dh_block = torch::stable::new_empty(c.z, {c.half ? c.rows : 0, H}, c.compute);
  if (c.B * c.N == 0) {
    dh = torch::stable::new_zeros(c.z, {c.B, H});
  }
  for (int64_t r = 0; r < c.B && c.N > 0; r += c.rows) {
    const int64_t n = c.B - r < c.rows ? c.B - r : c.rows;
    const Tensor h_block = c.block_h(r, n);
    FlowArgs a = c.start(r, n, h_block);
    a.act_in = c.at(act.const_data_ptr(), r * c.N * K, e);
    a.gz = c.at(gz.const_data_ptr(), r * c.N * D, c.size);
    a.gz_row = D;
    a.gl = c.at(gl.const_data_ptr(), r * c.N, e);
    a.z_out = c.at(dz.mutable_data_ptr(), r * c.N * D, c.size);
    a.gu = const_cast<void*>(a.u);
    a.gw = const_cast<void*>(a.w);
    a.gb = const_cast<void*>(a.b);
    a.gu_group = a.gw_group = a.gb_group = C;
    a.gu_layer = a.gw_layer = a.gb_layer = 2 * D + 1;
    run_backward(a, ORD_DISPATCH(planar_flow_backward), c.z);
    if (c.extreme) {  // the gradients took the place of the parameters
      const Tensor gradients = torch::stable::clone(c.params);
      c.start(r, n, h_block);
      const auto [u, w, b] = c.split(c.params, n);
      const auto [du, dw, db] = c.split(gradients, n);
      redo_extreme_rows(rows_of(c.z, r, n), rows_of(act, r, n), u, w, rows_of(gz, r, n), rows_of(gl, r, n), a.mode,
                        ORD_DISPATCH(planar_flow_backward), {rows_of(dz, r, n), du, dw, db});
      torch::stable::copy_(c.params, gradients);
      c.extreme = 0;
    }

    const void *const g = c.params.const_data_ptr(), *const w = c.weight.const_data_ptr(),
                      *const hb = h_block.const_data_ptr();
    void* const to = c.at(dh.mutable_data_ptr(), r * H, c.size);
    multiply(c.product({n, H, C}, {g, C, 1}, {w, H, 1}, GemmStart::zero, c.half ? dh_block.mutable_data_ptr() : to));
    if (c.half) {
      Tensor narrow = matrix(to, n, H, c.storage);
      torch::stable::copy_(narrow, matrix(dh_block.const_data_ptr(), n, H, c.compute));
    }
    multiply(c.product({C, H, n}, {g, 1, C}, {hb, H, 1}, GemmStart::c, dweight.mutable_data_ptr()));
    ORD_DISPATCH(add_columns)(e == 8, g, n, C, dbias.mutable_data_ptr());
  }
  if (c.half) {
    dweight = torch::stable::to(dweight, c.storage);
    dbias = torch::stable::to(dbias, c.storage);
  }
  return {dz, dh, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("conditional_planar_flow", TORCH_BOX(&forward));
  m.impl("_conditional_planar_flow", TORCH_BOX(&forward));
  m.impl("conditional_planar_flow_backward", TORCH_BOX(&backward));
  m.impl("_conditional_planar_flow_backward", TORCH_BOX(&backward));
}
