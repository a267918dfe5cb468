// denoise_chain, a whole reverse chain in one call: check, pack the weights once, share out the rows.
#include "cpu/mlp_chain.h"
#include "cpu/ops/denoise_chain_args.h"

ORD_DECLARE_KERNEL(denoise_chain_pack, const DenoiseChainArgs&, void* scratch);
ORD_DECLARE_KERNEL(denoise_chain, const DenoiseChainArgs&, int64_t begin, int64_t end, void* scratch);

namespace {

// Whether bf16 numbers are multiplied at twice the rate of fp32's: on Zen 4. On Zen 5 and on Intel's cores both have
// one rate, and fp32 loses nothing.
bool pairs_are_faster() {
#if defined(__x86_64__)
  static const bool are = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amdfam19h");
  return are && isa() == Isa::avx512;
#else
  return false;
#endif
}

std::tuple<Tensor, Tensor> denoise_chain(const Tensor& x, const Tensor& cond_, const Tensor& w_in, const Tensor& b_in,
                                         const Tensor& w_cond, const Tensor& w_out, const Tensor& b_out,
                                         const Tensor& embedding, const Tensor& step_coefficients,
                                         const OptionalTensor& noise, const OptionalTensor& row_ids,
                                         const OptionalTensor& draw_ids, int64_t K, OptionalNumber clip, int64_t seed,
                                         bool bf16) {
  STD_TORCH_CHECK(cond_.dim() == 2, "cond: expected [B, C], got ", shape_text(cond_));
  STD_TORCH_CHECK(K > 0, "K: expected at least 1, got ", K);
  DenoiseChainArgs a{};
  a.C = cond_.size(1);
  a.K = K;
  a.clip = clip.value_or(INFINITY);
  mlp_chain::Tensors t{x, w_in, b_in, w_cond, w_out, b_out, embedding, step_coefficients, noise, row_ids, draw_ids};
  mlp_chain::check("x", t, 8, 5, seed, a);
  for (int64_t s = 0; s < a.S; ++s) {
    const double place = a.step_coefficients[8 * s + 7];
    STD_TORCH_CHECK(place >= -1 && place < K, "step_coefficients: expected a place below K, got ", place);
  }
  const Tensor cond = checked_contiguous("cond", cond_, x.scalar_type(), {a.B, a.C});
  a.pairs = bf16 && !a.is_double && pairs_are_faster();
  Tensor x_0 = empty_contiguous(t.x, {a.B, a.D}), states = empty_contiguous(t.x, {a.B, K, a.D});
  if (a.B > 0) {
    a.cond = cond.const_data_ptr();
    a.x_0 = x_0.mutable_data_ptr();
    a.states = states.mutable_data_ptr();
    mlp_chain::run<DenoiseChainArgs>(a,
                                     {ORD_DISPATCH(denoise_chain_pack), ORD_DISPATCH(denoise_chain),
                                      denoise_chain_packed(a), denoise_chain_scratch(a), a.pairs, 12},
                                     mlp_chain::packed_sources(a));
  }
  return {x_0, states};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("denoise_chain", TORCH_BOX(&denoise_chain)); }
