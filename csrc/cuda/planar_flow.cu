// planar_flow and its backward: per-row parameters, D up to 512.
#include "kernels/planar_flow.h"
#include "torch.h"

namespace {

using namespace planar;

constexpr int64_t kMaxWidth = 512;  // D: what a warp holds in registers

Tensor adjacent_columns(const Tensor& t) { return t.stride(2) == 1 || t.size(2) == 1 ? t : as_contiguous(t); }

struct Call {  // the arguments of both directions, checked
  int64_t B, D, K;
  Tensor z, u, w;

  Call(const Tensor& z_, const Tensor& u_, const Tensor& w_, int64_t mode) {
    STD_TORCH_CHECK(mode >= 0 && mode <= 2, "mode: expected 0, 1 or 2");
    STD_TORCH_CHECK(z_.dim() == 2 && u_.dim() == 3, "z, u: expected [B, D] and [B, K, D]");
    B = z_.size(0), D = z_.size(1), K = u_.size(1);
    STD_TORCH_CHECK(D > 0 && D <= kMaxWidth && K > 0 && B < INT64_C(1) << 31, "expected D of 1 to 512, K at least 1");
    check("u", u_, z_.scalar_type(), {B, K, D});
    check("w", w_, z_.scalar_type(), {B, K, D});
    z = as_contiguous(z_), u = adjacent_columns(u_), w = adjacent_columns(w_);
  }
  template <class T>
  Parameters<T> parameters() const {
    return {in<T>(u), in<T>(w), u.stride(0), u.stride(1), w.stride(0), w.stride(1)};
  }
  bool fits(int V, int64_t bytes, std::initializer_list<const Tensor*> more) const {  // vectors of V columns
    bool fit =
        D % V == 0 && u.stride(0) % V == 0 && u.stride(1) % V == 0 && w.stride(0) % V == 0 && w.stride(1) % V == 0;
    for (const Tensor* t : {&z, &u, &w}) {
      fit = fit && aligned(*t, bytes * V);
    }
    for (const Tensor* t : more) {
      fit = fit && aligned(*t, bytes * V);
    }
    return fit;
  }
};

template <int V_, int E_>
struct Columns_ {
  static constexpr int V = V_, E = E_;
};

// go(V, E): how a lane holds its share of a row.
template <class F>
void with_columns(const Call& c, bool by_two, bool by_four, F go) {
  if (c.D <= 32) {
    go(Columns_<1, 1>{});
  } else if (c.D <= 64 && by_two) {
    go(Columns_<2, 1>{});
  } else if (c.D <= 128 && by_four) {
    go(Columns_<4, 1>{});
  } else if (by_four) {
    go(Columns_<4, 4>{});
  } else {
    go(Columns_<1, 16>{});
  }
}

std::tuple<Tensor, Tensor, Tensor> planar_flow(const Tensor& z, const Tensor& u, const Tensor& w, const Tensor& b_,
                                               int64_t mode) {
  const Call c(z, u, w, mode);
  const ScalarType type = z.scalar_type();
  const Tensor b = checked_contiguous("b", b_, type, {c.B, c.K});
  Tensor z_out = torch::stable::new_empty(z, {c.B, c.D});
  Tensor log_det = torch::stable::new_empty(z, {c.B}, compute_type(type));
  Tensor act = torch::stable::new_empty(z, {c.B, c.K}, compute_type(type));
  if (c.B == 0) {
    return {z_out, log_det, act};
  }
  const OnDevice on(z);
  for_dtype("z", z, [&](auto zero) {
    using T = decltype(zero);
    with_columns(c, c.fits(2, sizeof(T), {}), c.fits(4, sizeof(T), {}), [&](auto columns) {
      using C = decltype(columns);
      launch("planar_flow", &planar_flow_kernel<T, C::V, C::E>, dim3(blocks_of(c.B, kWarps)), dim3(32 * kWarps), 0,
             on.stream, in<T>(c.z), c.parameters<T>(), in<T>(b), out<T>(z_out), out<Compute<T>>(log_det),
             out<Compute<T>>(act), c.B, static_cast<int>(c.K), static_cast<int>(c.D), static_cast<int>(mode));
    });
  });
  return {z_out, log_det, act};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> planar_flow_backward(const Tensor& z, const Tensor& act_, const Tensor& u,
                                                                const Tensor& w, const Tensor& gz_, const Tensor& gl_,
                                                                int64_t mode) {
  const Call c(z, u, w, mode);
  const ScalarType type = z.scalar_type();
  const Tensor act = checked_contiguous("act", act_, compute_type(type), {c.B, c.K});
  const Tensor gz = checked_contiguous("gz", gz_, type, {c.B, c.D});
  const Tensor gl = checked_contiguous("gl", gl_, compute_type(type), {c.B});
  Tensor z_grad = torch::stable::new_empty(z, {c.B, c.D}), b_grad = torch::stable::new_empty(z, {c.B, c.K});
  Tensor u_grad = torch::stable::new_empty(z, {c.B, c.K, c.D}), w_grad = torch::stable::new_empty(z, {c.B, c.K, c.D});
  if (c.B == 0) {
    return {z_grad, u_grad, w_grad, b_grad};
  }
  const OnDevice on(z);
  const int64_t most = most_shared(on.index);
  for_dtype("z", z, [&](auto zero) {
    using T = decltype(zero);
    const int64_t bytes = backward_bytes<T>(c.K, c.D);
    STD_TORCH_CHECK(bytes <= most, "planar_flow_backward: K D states do not fit into shared memory");
    const int64_t warps = most / bytes < kWarps ? most / bytes : kWarps;
    with_columns(c, c.fits(2, sizeof(T), {&gz}), c.fits(4, sizeof(T), {&gz}), [&](auto columns) {
      using C = decltype(columns);
      const Gradients<T> g{in<T>(gz),      in<Compute<T>>(gl), out<T>(z_grad),
                           out<T>(u_grad), out<T>(w_grad),     out<T>(b_grad)};
      launch("planar_flow_backward", &planar_flow_backward_kernel<T, C::V, C::E>, dim3(blocks_of(c.B, warps)),
             dim3(32 * warps), bytes * warps, on.stream, in<T>(c.z), in<Compute<T>>(act), c.parameters<T>(), g, c.B,
             static_cast<int>(c.K), static_cast<int>(c.D), static_cast<int>(mode));
    });
  });
  return {z_grad, u_grad, w_grad, b_grad};
}

}  // namespace

ORD_CUDA_OPS(m) {
  m.impl("planar_flow", TORCH_BOX(&planar_flow));
  m.impl("planar_flow_backward", TORCH_BOX(&planar_flow_backward));
}
