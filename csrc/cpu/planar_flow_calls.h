// What the ops that run planar flows share: arguments from tensors, and launches.
#pragma once
#include <limits>

#include "cpu/checks.h"
#include "cpu/ops/planar_flow_args.h"
#include "cpu/scratch.h"

namespace planar {

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
  return static_cast<int>(mode);
}

// The dtype and sizes of z [B, D] | [B, N, D]; `shared`: all rows are one group.
inline void set_rows(FlowArgs& a, const Tensor& z, bool shared) {
  STD_TORCH_CHECK(z.dim() == 2 || z.dim() == 3, "z: expected [B, D] or [B, N, D], got ", shape_text(z));
  const int64_t B = z.size(0), N = z.dim() == 3 ? z.size(1) : 1;
  a.row_type = a.param_type = dtype_of("z", z);
  a.D = z.size(-1);
  a.G = shared ? 1 : B;
  a.N = shared ? B * N : N;
}

// [B] or [B, N], and [B, K] or [B, N, K].
inline std::vector<int64_t> rows_shape(const Tensor& z) {
  return z.dim() == 3 ? std::vector<int64_t>{z.size(0), z.size(1)} : std::vector<int64_t>{z.size(0)};
}
inline std::vector<int64_t> layers_shape(const Tensor& z, int64_t K) {
  auto shape = rows_shape(z);
  shape.push_back(K);
  return shape;
}

inline int64_t grain(const FlowArgs& a) {  // rows worth starting a thread for: some 10 us of work
  const int64_t rows = 32768 / (a.K * a.D);
  return rows > kFlowRows ? rows : kFlowRows;
}

using Kernel = void (*)(const FlowArgs&, int64_t begin, int64_t end, void* scratch);

inline void run(const FlowArgs& a, Kernel kernel) {
  const int64_t bytes = flow_scratch(a, false) * compute_size(a.row_type);
  const bool ok = parallel_with_scratch(
      a.G * a.N, grain(a), bytes, [&](int64_t begin, int64_t end, void* scratch) { kernel(a, begin, end, scratch); });
  STD_TORCH_CHECK(ok, "planar_flow: out of memory");
}

// How a group's rows are cut for its gradient sums, and how many rows go at a time: by the shapes alone, so that the
// result does not depend on the number of threads.
inline void plan_backward(FlowArgs& a) {
  const int64_t by_rows = (a.N + 255) / 256, wanted = (63 + a.G) / a.G;
  a.parts = by_rows < wanted ? by_rows : wanted;
  const int64_t size = compute_size(a.row_type), fit = (512 << 10) / (a.K * flow_padded(a.D) * size);
  a.block = fit > kFlowRows ? kFlowRows : fit > 1 ? fit : 1;
  // Gradients larger than a good part of the caches would push out everything else, and each line would be read before
  // it is written.
  const int64_t bytes = a.G * a.K * a.D * size;
  a.stream = a.N == 1 && !is_half(a.param_type) && use_streaming_stores(a.gu, bytes, 2 * bytes) &&
             use_streaming_stores(a.gw, bytes, 2 * bytes);
}

inline void run_backward(FlowArgs& a, Kernel kernel, const Tensor& z) {
  plan_backward(a);
  const int64_t bytes = flow_scratch(a, true) * compute_size(a.row_type);
  const auto body = [&](int64_t begin, int64_t end, void* scratch) { kernel(a, begin, end, scratch); };
  bool ok;
  if (a.N == 1) {
    ok = parallel_with_scratch(a.G, grain(a), bytes, body);
  } else if (a.parts == 1) {
    ok = parallel_with_scratch(a.G, std::max<int64_t>(1, grain(a) / a.N), bytes, body);
  } else {
    auto partial = empty_contiguous(z, {a.G * a.parts, a.K * (2 * flow_padded(a.D) + 2)}, compute_type(z));
    a.partial = partial.mutable_data_ptr();
    const auto combine = ORD_DISPATCH(planar_flow_combine);
    ok = parallel_with_scratch(a.G * a.parts, 1, bytes, body);
    ok = ok && parallel_with_scratch(
                   a.G, 1, bytes, [&](int64_t begin, int64_t end, void* scratch) { combine(a, begin, end, scratch); });
  }
  STD_TORCH_CHECK(ok, "planar_flow_backward: out of memory");
}

// z, u and w as the kernels read them. u, w [B, K, D] or [K, D].
struct Inputs {
  FlowArgs a{};
  Tensor z, u, w;
  bool shared;

  Inputs(const Tensor& z_, const Tensor& u_, const Tensor& w_, int64_t mode) {
    STD_TORCH_CHECK(z_.dim() >= 2 && u_.dim() >= 2 && w_.dim() >= 2, "z, u, w: expected at least 2 dimensions");
    STD_TORCH_CHECK(u_.dim() <= 3, "u: expected [B, K, D] or [K, D], got ", shape_text(u_));
    z = with_even_rows(z_);
    u = with_dense_rows(u_);
    w = with_dense_rows(w_);
    shared = u.dim() == 2;
    a.mode = mode_of(mode);
    set_rows(a, z, shared);
    a.K = u.size(-2);
    STD_TORCH_CHECK(a.K > 0 && a.D > 0, "u: expected at least one layer and one column, got ", shape_text(u));
    const auto shape = shared ? std::vector<int64_t>{a.K, a.D} : std::vector<int64_t>{z.size(0), a.K, a.D};
    for (const auto& [name, t] : {std::pair("u", &u), std::pair("w", &w)}) {
      check_shape(name, *t, shape);
      check_dtype(name, *t, z.scalar_type());
    }
    a.z = z.const_data_ptr();
    a.u = u.const_data_ptr();
    a.w = w.const_data_ptr();
    a.z_row = row_stride(z);
    a.u_group = shared ? 0 : u.stride(0);
    a.u_layer = u.stride(-2);
    a.w_group = shared ? 0 : w.stride(0);
    a.w_layer = w.stride(-2);
  }
};

inline Tensor to_double(const Tensor& t) { return torch::stable::to(t, ScalarType::Double); }

// Whether one of the layers u, w [K, D] is not 0 and has |w|^2 or a correction that is not within kNorms: it is then
// computed scaled, in fp64. The correction is about -w.u / |w|^2 where it is large, and, of smooth layers, where it is
// small. Squares of fp64 need the exponents of a long double.
template <class T>
bool has_extreme_layer(const double* u, const double* w, int64_t K, int64_t D, int mode) {
  constexpr long double low = kNorms<T>[0], high = kNorms<T>[1], infinity = __builtin_infl();
  const long double normal = std::numeric_limits<T>::min() * D;  // a smaller w.u may be 0 in T
  for (int64_t k = 0; k < K; ++k, u += D, w += D) {
    long double norm = 0, product = 0;
    for (int64_t d = 0; d < D; ++d) {
      norm += (long double)w[d] * w[d];
      product += (long double)w[d] * u[d];
    }
    const long double size = __builtin_fabsl(product);
    const bool finite = norm < infinity && size < infinity, small = mode == 2 && size > normal && size < low * norm;
    if (norm > 0 && finite && (norm < low || norm > high || -product > 2 * high * norm || small)) {
      return true;
    }
  }
  return false;
}

inline Tensor rows_of(Tensor t, int64_t begin, int64_t n) { return torch::stable::narrow(t, 0, begin, n); }
inline void write_rows(const Tensor& to, int64_t begin, int64_t n, const Tensor& from) {
  Tensor rows = rows_of(to, begin, n);
  torch::stable::copy_(rows, from);
}

// f(first row, rows) for the runs of rows with an extreme layer: no other row may change with them. Shared parameters:
// all or none of `rows`.
template <class F>
void for_each_extreme_run(const Tensor& u_, const Tensor& w_, int64_t rows, int mode, const F& f) {
  const Tensor u = as_contiguous(to_double(u_)), w = as_contiguous(to_double(w_));
  const int64_t K = u.size(-2), D = u.size(-1), groups = u.dim() == 2 ? 1 : rows;
  const auto test = u_.scalar_type() == ScalarType::Double ? has_extreme_layer<double> : has_extreme_layer<float>;
  const auto is_extreme = [&](int64_t g) {
    return test(in<double>(u) + g * K * D, in<double>(w) + g * K * D, K, D, mode);
  };
  for (int64_t g = 0, first = 0; g <= groups; ++g) {
    if (g < groups && is_extreme(g)) {
      continue;
    }
    if (g > first) {
      f(first, groups == 1 ? rows : g - first);
    }
    first = g + 1;
  }
}

using Mapped = std::tuple<Tensor, Tensor, Tensor>;             // z_out, log_det, act
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // of z, u, w, b
inline Mapped map(Inputs& in, const Tensor& b, Kernel kernel);
inline Gradients map_backward(Inputs& in, const Tensor& act_, const Tensor& gz_, const Tensor& gl_, Kernel kernel);

// The rows with an extreme layer once more, scaled and in fp64, into `to`.
inline void redo_extreme_rows(const Tensor& z, const Tensor& u, const Tensor& w, const Tensor& b, int mode,
                              Kernel kernel, const Mapped& to) {
  for_each_extreme_run(u, w, z.size(0), mode, [&](int64_t first, int64_t n) {
    const auto part = [&](const Tensor& t) { return to_double(u.dim() == 2 ? t : rows_of(t, first, n)); };
    Inputs wide(to_double(rows_of(z, first, n)), part(u), part(w), mode);
    wide.a.scaled = true;
    const auto [z_out, log_det, act] = map(wide, part(b), kernel);
    write_rows(std::get<0>(to), first, n, z_out);
    write_rows(std::get<1>(to), first, n, log_det);
    write_rows(std::get<2>(to), first, n, act);
  });
}
inline void redo_extreme_rows(const Tensor& z, const Tensor& act, const Tensor& u, const Tensor& w, const Tensor& gz,
                              const Tensor& gl, int mode, Kernel kernel, const Gradients& to) {
  for_each_extreme_run(u, w, z.size(0), mode, [&](int64_t first, int64_t n) {
    const auto rows = [&](const Tensor& t) { return to_double(rows_of(t, first, n)); };
    const auto part = [&](const Tensor& t) { return u.dim() == 2 ? to_double(t) : rows(t); };
    Inputs wide(rows(z), part(u), part(w), mode);
    wide.a.scaled = true;
    const auto [dz, du, dw, db] = map_backward(wide, rows(act), rows(gz), rows(gl), kernel);
    write_rows(std::get<0>(to), first, n, dz);
    const int64_t at = u.dim() == 2 ? 0 : first;
    write_rows(std::get<1>(to), at, du.size(0), du);
    write_rows(std::get<2>(to), at, du.size(0), dw);
    write_rows(std::get<3>(to), at, du.size(0), db);
  });
}

// (z_out, log_det, act) by one of the two maps.
inline Mapped map(Inputs& in, const Tensor& b, Kernel kernel) {
  FlowArgs& a = in.a;
  int extreme = 0;
  a.extreme = a.mode != 0 && !a.scaled ? &extreme : nullptr;
  check_dtype("b", b, in.z.scalar_type());
  check_shape("b", b, in.shared ? std::vector<int64_t>{a.K} : std::vector<int64_t>{in.z.size(0), a.K});
  a.b = b.const_data_ptr();
  a.b_group = in.shared ? 0 : b.stride(0);
  a.b_layer = b.stride(-1);
  const ScalarType compute = compute_type(in.z);
  auto out = empty_contiguous(in.z, shape_of(in.z)), log_det = empty_contiguous(in.z, rows_shape(in.z), compute);
  auto act = empty_contiguous(in.z, layers_shape(in.z, a.K), compute);
  if (a.G * a.N > 0) {
    a.z_out = out.mutable_data_ptr();
    a.log_det = log_det.mutable_data_ptr();
    a.act = act.mutable_data_ptr();
    run(a, kernel);
  }
  const Mapped mapped{out, log_det, act};
  if (extreme) {
    redo_extreme_rows(in.z, in.u, in.w, b, a.mode, kernel, mapped);
  }
  return mapped;
}

// (dz, du, dw, db) of one of the two maps.
inline Gradients map_backward(Inputs& in, const Tensor& act_, const Tensor& gz_, const Tensor& gl_, Kernel kernel) {
  FlowArgs& a = in.a;
  int extreme = 0;
  a.extreme = a.mode != 0 && !a.scaled ? &extreme : nullptr;
  check_like("gz", gz_, in.z);
  const ScalarType compute = compute_type(in.z);
  check_shape("gl", gl_, rows_shape(in.z));
  check_dtype("gl", gl_, compute);
  check_shape("act", act_, layers_shape(in.z, a.K));
  check_dtype("act", act_, compute);
  const Tensor act = as_contiguous(act_), gl = as_contiguous(gl_), gz = with_even_rows(gz_);

  const auto shape = shape_of(in.u), heads = std::vector<int64_t>(shape.begin(), shape.end() - 1);
  auto dz = empty_contiguous(in.z, shape_of(in.z));
  auto du = empty_contiguous(in.u, shape), dw = empty_contiguous(in.u, shape), db = empty_contiguous(in.u, heads);
  if (a.G * a.N == 0) {
    return {dz, torch::stable::fill_(du, 0), torch::stable::fill_(dw, 0), torch::stable::fill_(db, 0)};
  }
  a.act_in = act.const_data_ptr();
  a.gl = gl.const_data_ptr();
  a.gz = gz.const_data_ptr();
  a.gz_row = row_stride(gz);
  a.z_out = dz.mutable_data_ptr();
  a.gu = du.mutable_data_ptr();
  a.gw = dw.mutable_data_ptr();
  a.gb = db.mutable_data_ptr();
  a.gu_group = a.gw_group = a.K * a.D;
  a.gu_layer = a.gw_layer = a.D;
  a.gb_group = a.K;
  a.gb_layer = 1;
  run_backward(a, kernel, in.z);
  const Gradients gradients{dz, du, dw, db};
  if (extreme) {
    redo_extreme_rows(in.z, act, in.u, in.w, gz, gl, a.mode, kernel, gradients);
  }
  return gradients;
}

}  // namespace planar
