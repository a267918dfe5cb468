// denoise_chain: any D, H and dtype, as long as a row fits into shared memory.
#include "kernels/chain.h"
#include "mlp_launch.h"

namespace {

using namespace mlp;

struct Call {
  const Tensor &x, &shift, &step_coefficients;
  const MaybeTensor &noise, &row_ids, &draw_ids;
  int64_t B, D, S, K;
  double clip;
  int64_t seed;
};

template <class Chosen, class A = typename Chosen::Mlp::A>
void run(const OnDevice& on, const Call& c, const WeightTensors& w, Tensor& x_0, Tensor& states, Chosen chosen) {
  using Mlp = typename Chosen::Mlp;
  const chain::Noise<A> noise{in<A>(c.noise), in<int64_t>(c.row_ids), in<int64_t>(c.draw_ids),
                              static_cast<uint64_t>(c.seed)};
  const chain::Denoise<A> a{in<A>(c.x),
                            in<A>(c.shift),
                            in<double>(c.step_coefficients),
                            noise,
                            out<A>(x_0),
                            out<A>(states),
                            c.B,
                            static_cast<int>(c.D),
                            static_cast<int>(c.S),
                            static_cast<int>(c.K),
                            static_cast<A>(c.clip)};
  launch("denoise_chain", &chain::denoise_chain_kernel<Mlp>, persistent_blocks<Mlp>(on, c.B), dim3(Mlp::threads),
         chosen.bytes, on.stream, a, w.of<Mlp>(chosen.resident));
}

// x [B, D]; shift [B, H], times [S, H]: what the condition and the time add to the units; weights as WeightTensors
// says.
std::tuple<Tensor, Tensor> denoise_chain(const Tensor& x_, const Tensor& shift_, const Tensor& times,
                                         const Tensor& w_in, const Tensor& w_out, const Tensor& b_out,
                                         const Tensor& step_coefficients_, const MaybeTensor& noise_,
                                         const MaybeTensor& row_ids_, const MaybeTensor& draw_ids_, int64_t K,
                                         double clip, int64_t seed, int64_t path) {
  const WeightTensors w(w_in, w_out, b_out, times, path);
  STD_TORCH_CHECK(x_.dim() == 2 && x_.size(1) <= w.D, "x: expected [B, D]");
  const int64_t B = x_.size(0), D = x_.size(1), S = times.size(0);
  const ScalarType type = times.scalar_type();
  const Tensor x = checked_contiguous("x", x_, type, {B, D}),
               shift = checked_contiguous("shift", shift_, type, {B, w.H});
  const Tensor step_coefficients =
      checked_contiguous("step_coefficients", step_coefficients_, ScalarType::Double, {S, 8});
  const MaybeTensor noise = checked_contiguous("noise", noise_, type, {S, B, D});
  const MaybeTensor row_ids = checked_contiguous("row_ids", row_ids_, ScalarType::Long, {B});
  const MaybeTensor draw_ids = checked_contiguous("draw_ids", draw_ids_, ScalarType::Long, {B});
  STD_TORCH_CHECK(aligned(x, 16) && aligned(shift, 16) && (!noise || aligned(*noise, 16)),
                  "x, shift, noise: expected multiples of 16 bytes");
  Tensor x_0 = torch::stable::new_empty(x, {B, D}), states = torch::stable::new_empty(x, {B, K, D});
  if (B == 0) {
    return {x_0, states};
  }
  const OnDevice on(x);
  const Call call{x, shift, step_coefficients, noise, row_ids, draw_ids, B, D, S, K, clip, seed};
  const auto go = [&](auto chosen) { run(on, call, w, x_0, states, chosen); };
  bool fits = false;
  if (path == kBF16) {
    fits = w.D == 32   ? choose_tensor_cores<32, 4, mma::kBF16>(on, w, B, 0, go)
           : w.D == 64 ? choose_tensor_cores<64, 4, mma::kBF16>(on, w, B, 0, go)
                       : choose_tensor_cores<128, 2, mma::kBF16>(on, w, B, 0, go);
  } else if (path == kTF32x3) {
    fits = w.D == 32   ? choose_tensor_cores<32, 4, mma::kTF32x3>(on, w, B, 0, go)
           : w.D == 64 ? choose_tensor_cores<64, 4, mma::kTF32x3>(on, w, B, 0, go)
                       : choose_tensor_cores<128, 2, mma::kTF32x3>(on, w, B, 0, go);
  } else {
    fits = type == ScalarType::Double ? choose_plain<double>(on, w, 0, go) : choose_plain<float>(on, w, 0, go);
  }
  STD_TORCH_CHECK(fits, "denoise_chain: D and the hidden width do not fit into shared memory");
  return {x_0, states};
}

}  // namespace

ORD_CUDA_OPS(m) { m.impl("denoise_chain", TORCH_BOX(&denoise_chain)); }
