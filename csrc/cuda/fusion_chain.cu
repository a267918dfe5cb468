// fusion_chain: any D, H and dtype, as long as a row fits into shared memory.
#include "kernels/chain.h"
#include "mlp_launch.h"

namespace {

using namespace mlp;

constexpr int kTiles = 2;  // of a kernel in shared memory, next to the MLP's

struct Call {
  const Tensor &h_long, &empty, &shift, &mask, &step_coefficients;
  const MaybeTensor &noise, &row_ids, &draw_ids;
  int64_t B, all_rows, D, S, K, branches;
  double weights[3];
  int64_t seed;
};

template <class Chosen, class A = typename Chosen::Mlp::A>
void run(const OnDevice& on, const Call& c, const WeightTensors& w, Tensor& x_0, Chosen chosen) {
  using Mlp = typename Chosen::Mlp;
  const chain::Noise<A> noise{in<A>(c.noise), in<int64_t>(c.row_ids), in<int64_t>(c.draw_ids),
                              static_cast<uint64_t>(c.seed)};
  const chain::Fusion<A> a{in<A>(c.h_long),
                           in<A>(c.empty),
                           in<A>(c.shift),
                           in<bool>(c.mask),
                           in<double>(c.step_coefficients),
                           noise,
                           out<A>(x_0),
                           c.B,
                           c.all_rows,
                           static_cast<int>(c.D),
                           static_cast<int>(c.S),
                           static_cast<int>(c.K),
                           static_cast<int>(c.branches),
                           static_cast<A>(c.weights[0]),
                           static_cast<A>(c.weights[1]),
                           static_cast<A>(c.weights[2])};
  launch("fusion_chain", &chain::fusion_chain_kernel<Mlp>, persistent_blocks<Mlp>(on, c.B), dim3(Mlp::threads),
         chosen.bytes, on.stream, a, w.of<Mlp>(chosen.resident));
}

// h_long [B, D], mask [B, K]; empty [H], shift [branches - 1, B, K, H]: what the guidance adds to the units; times [S,
// H]; noise [S, B, D], whose steps lie all_rows D apart; w_un, w_1, w_2: weights of the branches in the combination.
Tensor fusion_chain(const Tensor& h_long_, const Tensor& mask_, const Tensor& empty_, const Tensor& shift_,
                    const Tensor& times, const Tensor& w_in, const Tensor& w_out, const Tensor& b_out,
                    const Tensor& step_coefficients_, const MaybeTensor& noise, const MaybeTensor& row_ids_,
                    const MaybeTensor& draw_ids_, double w_un, double w_1, double w_2, int64_t seed, int64_t path) {
  const WeightTensors w(w_in, w_out, b_out, times, path);
  STD_TORCH_CHECK(h_long_.dim() == 2 && h_long_.size(1) <= w.D && mask_.dim() == 2 && shift_.dim() == 4,
                  "h_long, mask, shift: expected [B, D], [B, K], [branches - 1, B, K, H]");
  const int64_t B = h_long_.size(0), D = h_long_.size(1), S = times.size(0), K = mask_.size(1);
  const int64_t branches = 1 + shift_.size(0);
  STD_TORCH_CHECK(branches <= 3, "shift: expected up to two guided branches");
  const ScalarType type = times.scalar_type();
  const Tensor h_long = checked_contiguous("h_long", h_long_, type, {B, D});
  const Tensor mask = checked_contiguous("mask", mask_, ScalarType::Bool, {B, K});
  const Tensor empty = checked_contiguous("empty", empty_, type, {w.H});
  const Tensor shift = checked_contiguous("shift", shift_, type, {branches - 1, B, K, w.H});
  const Tensor step_coefficients =
      checked_contiguous("step_coefficients", step_coefficients_, ScalarType::Double, {S, 4});
  const MaybeTensor row_ids = checked_contiguous("row_ids", row_ids_, ScalarType::Long, {B});
  const MaybeTensor draw_ids = checked_contiguous("draw_ids", draw_ids_, ScalarType::Long, {B});
  int64_t all_rows = B;
  if (noise) {
    check("noise", *noise, type, {S, B, D});
    all_rows = S > 1 ? noise->stride(0) / D : B;
    STD_TORCH_CHECK((B == 1 || noise->stride(1) == D) && (D == 1 || noise->stride(2) == 1),
                    "noise: expected whole rows");
  }
  STD_TORCH_CHECK(aligned(h_long, 16) && aligned(empty, 16) && aligned(shift, 16), "expected multiples of 16 bytes");
  Tensor x_0 = torch::stable::new_empty(h_long, {B, D});
  if (B == 0) {
    return x_0;
  }
  const OnDevice on(h_long);
  const Call call{h_long, empty, shift, mask,     step_coefficients, noise, row_ids, draw_ids, B, all_rows,
                  D,      S,     K,     branches, {w_un, w_1, w_2},  seed};
  const auto go = [&](auto chosen) { run(on, call, w, x_0, chosen); };
  bool fits = false;
  if (path == kTF32x3) {
    fits = w.D == 32   ? choose_tensor_cores<32, 4, mma::kTF32x3>(on, w, B, kTiles, go)
           : w.D == 64 ? choose_tensor_cores<64, 4, mma::kTF32x3>(on, w, B, kTiles, go)
                       : choose_tensor_cores<128, 2, mma::kTF32x3>(on, w, B, kTiles, go);
  } else if (path == kPlain) {
    fits =
        type == ScalarType::Double ? choose_plain<double>(on, w, kTiles, go) : choose_plain<float>(on, w, kTiles, go);
  }
  STD_TORCH_CHECK(fits, "fusion_chain: D and the hidden width do not fit into shared memory");
  return x_0;
}

}  // namespace

ORD_CUDA_OPS(m) { m.impl("fusion_chain", TORCH_BOX(&fusion_chain)); }
