// fusion_chain, a whole guided chain in one call: check, pack the weights once, share out the rows.
#include "cpu/mlp_chain.h"
#include "cpu/ops/fusion_chain_args.h"

ORD_DECLARE_KERNEL(fusion_chain_pack, const FusionChainArgs&, void* scratch);
ORD_DECLARE_KERNEL(fusion_chain, const FusionChainArgs&, int64_t begin, int64_t end, void* scratch);

namespace {

Tensor fusion_chain(const Tensor& h_long, const Tensor& g_cp_, const Tensor& g_tf_, const Tensor& mask_,
                    const Tensor& w_in, const Tensor& b_in, const Tensor& w_cond, const Tensor& w_out,
                    const Tensor& b_out, const Tensor& empty_, const Tensor& embedding, const Tensor& step_coefficients,
                    const OptionalTensor& noise, const OptionalTensor& row_ids, const OptionalTensor& draw_ids,
                    double gamma_cp, double gamma_tf, int64_t seed) {
  STD_TORCH_CHECK(g_cp_.dim() == 3, "g_cp: expected [B, K, C], got ", shape_text(g_cp_));
  FusionChainArgs a{};
  a.K = g_cp_.size(1);
  a.C = g_cp_.size(2);
  mlp_chain::Tensors t{h_long, w_in,    b_in,    w_cond, w_out, b_out, embedding, step_coefficients,
                       noise,  row_ids, draw_ids};
  mlp_chain::check("h_long", t, 4, 2, seed, a);
  const ScalarType type = h_long.scalar_type();
  const Tensor g_cp = checked_contiguous("g_cp", g_cp_, type, {a.B, a.K, a.C});
  const Tensor g_tf = checked_contiguous("g_tf", g_tf_, type, {a.B, a.K, a.C});
  const Tensor mask = checked_contiguous("mask", mask_, ScalarType::Bool, {a.B, a.K});
  const Tensor empty = checked_contiguous("empty", empty_, type, {a.C});
  Tensor x_0 = empty_contiguous(t.x, {a.B, a.D});
  if (a.B == 0) {
    return x_0;
  }
  a.mask = in<uint8_t>(mask);
  a.empty = empty.const_data_ptr();
  a.x_0 = x_0.mutable_data_ptr();
  const auto guide = [&](const Tensor& g, double gamma) {
    if (gamma != 0) {
      a.g[a.guided] = g.const_data_ptr();
      a.gamma[a.guided] = gamma;
      ++a.guided;
    }
  };
  guide(g_cp, gamma_cp);
  guide(g_tf, gamma_tf);
  auto sources = mlp_chain::packed_sources(a);
  sources.push_back({a.empty, a.C * (a.is_double ? 8 : 4)});
  mlp_chain::run<FusionChainArgs>(a,
                                  {ORD_DISPATCH(fusion_chain_pack), ORD_DISPATCH(fusion_chain), fusion_chain_packed(a),
                                   fusion_chain_scratch(a), 0, 4},
                                  sources);
  return x_0;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("fusion_chain", TORCH_BOX(&fusion_chain)); }
