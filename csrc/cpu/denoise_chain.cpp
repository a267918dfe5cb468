// denoise_chain, a whole reverse chain in one call: check, prepare the weights once, share out the rows.
#include <optional>

#include "cpu/checks.h"
#include "cpu/ops/denoise_chain_args.h"
#include "cpu/packed_weights_cache.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(denoise_chain_prepare, const ChainArgs&, void*);
ORD_DECLARE_KERNEL(denoise_chain, const ChainArgs&, int64_t begin, int64_t end, void*);

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

std::tuple<Tensor, Tensor> chain(const Tensor& x_, const Tensor& cond_, const Tensor& w_in_, const Tensor& b_in_,
                                 const Tensor& w_cond_, const Tensor& w_out_, const Tensor& b_out_,
                                 const Tensor& embedding_, const Tensor& numbers_, const OptionalTensor& noise_,
                                 const OptionalTensor& row_ids_, const OptionalTensor& draw_ids_, int64_t K,
                                 double clip, int64_t seed, bool bf16) {
  const ScalarType type = x_.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "x: expected float32 or float64");
  STD_TORCH_CHECK(x_.dim() == 2 && cond_.dim() == 2 && w_in_.dim() == 2 && embedding_.dim() == 2,
                  "x, cond, w_in, embedding: expected matrices");
  ChainArgs a{};
  a.is_double = type == ScalarType::Double;
  a.pairs = bf16 && !a.is_double && pairs_are_faster();
  a.B = x_.size(0), a.D = x_.size(1), a.C = cond_.size(1), a.H = w_in_.size(0), a.S = embedding_.size(0),
  a.E = embedding_.size(1), a.K = K;
  STD_TORCH_CHECK(a.D > 0 && a.C > 0 && a.H > 0 && a.E > 0 && a.S > 0 && K > 0,
                  "widths, steps, K: expected at least 1");
  const Tensor x = checked_contiguous("x", x_, type, {a.B, a.D}),
               cond = checked_contiguous("cond", cond_, type, {a.B, a.C});
  const Tensor w_in = checked_contiguous("w_in", w_in_, type, {a.H, a.D + a.E}),
               b_in = checked_contiguous("b_in", b_in_, type, {a.H});
  const Tensor w_cond = checked_contiguous("w_cond", w_cond_, type, {a.H, a.C}),
               w_out = checked_contiguous("w_out", w_out_, type, {a.D, a.H});
  const Tensor b_out = checked_contiguous("b_out", b_out_, type, {a.D}),
               embedding = checked_contiguous("embedding", embedding_, type, {a.S, a.E});
  const Tensor numbers = checked_contiguous("numbers", numbers_, ScalarType::Double, {a.S, 8});
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
    const double* n = a.numbers + 8 * s;
    STD_TORCH_CHECK(n[6] >= 0 && n[6] < 4294967296.0 && n[7] >= -1 && n[7] < K,
                    "numbers: expected a timestep and a place below K");
    STD_TORCH_CHECK(n[5] == 0 || noise || row_ids, "noise: expected noise or row_ids, as a step has noise");
  }
  auto x_0 = empty_contiguous(x, {a.B, a.D}), states = empty_contiguous(x, {a.B, K, a.D});
  if (a.B == 0) {
    return {x_0, states};
  }
  a.x = x.const_data_ptr(), a.cond = cond.const_data_ptr();
  a.w_in = w_in.const_data_ptr(), a.b_in = b_in.const_data_ptr(), a.w_cond = w_cond.const_data_ptr();
  a.w_out = w_out.const_data_ptr(), a.b_out = b_out.const_data_ptr(), a.embedding = embedding.const_data_ptr();
  a.noise = noise ? noise->const_data_ptr() : nullptr;
  a.made = !noise && row_ids, a.row_ids = a.made ? in<int64_t>(*row_ids) : nullptr,
  a.draw_ids = a.made && draw_ids ? in<int64_t>(*draw_ids) : nullptr;
  a.seed = static_cast<uint64_t>(seed), a.clip = clip;
  a.x_0 = x_0.mutable_data_ptr(), a.states = states.mutable_data_ptr();

  const int64_t size = a.is_double ? 8 : 4, bytes = (chain_scratch(a) * size + 63) / 64 * 64,
                packed = chain_shared(a) * size;
  PackedWeightsCache* const cached =
      PackedWeightsCache::lookup<ChainArgs>({a.is_double + 2 * a.pairs, a.D, a.C, a.H, a.E, a.S}, packed,
                                            {{a.embedding, a.S * a.E * size},
                                             {a.b_in, a.H * size},
                                             {a.b_out, a.D * size},
                                             {a.w_in, a.H * (a.D + a.E) * size},
                                             {a.w_out, a.D * a.H * size},
                                             {a.w_cond, a.H * a.C * size}});
  const int64_t all = cached ? bytes : bytes + packed;
  void* const scratch = thread_scratch(all);
  STD_TORCH_CHECK(scratch, "no memory for ", all, " bytes of scratch");
  a.shared = cached ? cached->packed : static_cast<char*>(scratch) + bytes;
  if (!cached || !cached->ready) {
    ORD_DISPATCH(denoise_chain_prepare)(a, scratch);
  }
  if (cached) {
    cached->ready = true;
  }
  auto* const run = ORD_DISPATCH(denoise_chain);
  const bool ok =
      parallel_with_scratch(a.B, 12, bytes, [&](int64_t begin, int64_t end, void* s) { run(a, begin, end, s); });
  STD_TORCH_CHECK(ok, "no memory for ", bytes, " bytes of scratch per thread");
  return {x_0, states};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) { m.impl("denoise_chain", TORCH_BOX(&chain)); }
