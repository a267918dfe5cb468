// fusion_chain, a whole guided chain in one call: check, prepare the weights once, share out the rows.
#include <optional>

#include "cpu/checks.h"
#include "cpu/ops/fusion_chain_args.h"
#include "cpu/packed_weights_cache.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(fusion_chain_prepare, const FusionArgs&, void*);
ORD_DECLARE_KERNEL(fusion_chain, const FusionArgs&, int64_t begin, int64_t end, void*);

namespace {

Tensor chain(const Tensor& x_, const Tensor& g_cp_, const Tensor& g_tf_, const Tensor& mask_, const Tensor& w_in_,
             const Tensor& b_in_, const Tensor& w_cond_, const Tensor& w_out_, const Tensor& b_out_,
             const Tensor& empty_, const Tensor& embedding_, const Tensor& numbers_, const OptionalTensor& noise_,
             const OptionalTensor& row_ids_, const OptionalTensor& draw_ids_, double gamma_cp, double gamma_tf,
             int64_t seed) {
  const ScalarType type = x_.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "h_long: expected float32 or float64");
  STD_TORCH_CHECK(x_.dim() == 2 && g_cp_.dim() == 3 && w_in_.dim() == 2 && embedding_.dim() == 2,
                  "h_long, g_cp, w_in, embedding: wrong dimensions");
  FusionArgs a{};
  a.is_double = type == ScalarType::Double;
  a.B = x_.size(0), a.D = x_.size(1), a.K = g_cp_.size(1), a.C = g_cp_.size(2), a.H = w_in_.size(0);
  a.S = embedding_.size(0), a.E = embedding_.size(1);
  STD_TORCH_CHECK(a.D > 0 && a.C > 0 && a.H > 0 && a.E > 0 && a.S > 0, "widths, steps: expected at least 1");
  const Tensor x = checked_contiguous("h_long", x_, type, {a.B, a.D}),
               g_cp = checked_contiguous("g_cp", g_cp_, type, {a.B, a.K, a.C});
  const Tensor g_tf = checked_contiguous("g_tf", g_tf_, type, {a.B, a.K, a.C}),
               mask = checked_contiguous("mask", mask_, ScalarType::Bool, {a.B, a.K});
  const Tensor w_in = checked_contiguous("w_in", w_in_, type, {a.H, a.D + a.E}),
               b_in = checked_contiguous("b_in", b_in_, type, {a.H});
  const Tensor w_cond = checked_contiguous("w_cond", w_cond_, type, {a.H, a.C}),
               w_out = checked_contiguous("w_out", w_out_, type, {a.D, a.H});
  const Tensor b_out = checked_contiguous("b_out", b_out_, type, {a.D}),
               empty = checked_contiguous("empty", empty_, type, {a.C});
  const Tensor embedding = checked_contiguous("embedding", embedding_, type, {a.S, a.E}),
               numbers = checked_contiguous("numbers", numbers_, ScalarType::Double, {a.S, 4});
  OptionalTensor noise, row_ids, draw_ids;
  if (noise_) {
    noise = checked_contiguous("noise", *noise_, type, {a.S, a.B, a.D});
  }
  if (row_ids_) {
    row_ids = checked_contiguous("row_ids", *row_ids_, ScalarType::Long, {a.B});
  }
  if (draw_ids_) {
    draw_ids = checked_contiguous("draw_ids", *draw_ids_, ScalarType::Long, {a.B});
  }

  a.numbers = in<double>(numbers);
  for (int64_t s = 0; s < a.S; ++s) {
    const double* n = a.numbers + 4 * s;
    STD_TORCH_CHECK(n[3] >= 0 && n[3] < 4294967296.0, "numbers: expected a timestep");
    STD_TORCH_CHECK(n[2] == 0 || noise || row_ids, "noise: expected noise or row_ids, as a step has noise");
  }
  auto x_0 = empty_contiguous(x, {a.B, a.D});
  if (a.B == 0) {
    return x_0;
  }
  a.x = x.const_data_ptr(), a.mask = in<uint8_t>(mask);
  if (gamma_cp != 0) {
    a.g[a.guided] = g_cp.const_data_ptr(), a.gamma[a.guided++] = gamma_cp;
  }
  if (gamma_tf != 0) {
    a.g[a.guided] = g_tf.const_data_ptr(), a.gamma[a.guided++] = gamma_tf;
  }
  a.w_in = w_in.const_data_ptr(), a.b_in = b_in.const_data_ptr(), a.w_cond = w_cond.const_data_ptr();
  a.w_out = w_out.const_data_ptr(), a.b_out = b_out.const_data_ptr(), a.empty = empty.const_data_ptr(),
  a.embedding = embedding.const_data_ptr();
  a.noise = noise ? noise->const_data_ptr() : nullptr;
  a.made = !noise && row_ids, a.row_ids = a.made ? in<int64_t>(*row_ids) : nullptr,
  a.draw_ids = a.made && draw_ids ? in<int64_t>(*draw_ids) : nullptr;
  a.seed = static_cast<uint64_t>(seed);
  a.x_0 = x_0.mutable_data_ptr();

  const int64_t size = a.is_double ? 8 : 4, bytes = (fusion_scratch(a) * size + 63) / 64 * 64,
                packed = (fusion_shared(a) * size + 63) / 64 * 64;
  PackedWeightsCache* const cached =
      PackedWeightsCache::lookup<FusionArgs>({a.is_double, a.D, a.C, a.H, a.E, a.S}, packed,
                                             {{a.embedding, a.S * a.E * size},
                                              {a.b_in, a.H * size},
                                              {a.b_out, a.D * size},
                                              {a.empty, a.C * size},
                                              {a.w_in, a.H * (a.D + a.E) * size},
                                              {a.w_out, a.D * a.H * size},
                                              {a.w_cond, a.H * a.C * size}});
  const int64_t all = cached ? bytes : bytes + packed;
  void* const scratch = thread_scratch(all);
  STD_TORCH_CHECK(scratch, "no memory for ", all, " bytes of scratch");
  a.shared = cached ? cached->packed : static_cast<char*>(scratch) + bytes;
  if (!cached || !cached->ready) {
    ORD_DISPATCH(fusion_chain_prepare)(a, scratch);
  }
  if (cached) {
    cached->ready = true;
  }
  auto* const run = ORD_DISPATCH(fusion_chain);
  const bool ok =
      parallel_with_scratch(a.B, 4, bytes, [&](int64_t begin, int64_t end, void* s) { run(a, begin, end, s); });
  STD_TORCH_CHECK(ok, "no memory for ", bytes, " bytes of scratch per thread");
  return x_0;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("fusion_chain", TORCH_BOX(&chain)); }
