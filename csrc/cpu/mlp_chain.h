// What denoise_chain and fusion_chain share on the torch side: the checks of a denoiser's weights and of the noise, and
// the launch: weights packed once per call, or cached, then rows shared out.
#pragma once
#include <optional>
#include <vector>

#include "cpu/checks.h"
#include "cpu/gemm/mlp_args.h"
#include "cpu/packed_weights_cache.h"
#include "cpu/scratch.h"

namespace mlp_chain {

// Tensors of a call as they come, or checked and contiguous: kept for as long as their pointers are used.
struct Tensors {
  Tensor x, w_in, b_in, w_cond, w_out, b_out, embedding, step_coefficients;
  OptionalTensor noise, row_ids, draw_ids;
};

// Checks `t` and makes it contiguous, and sets everything of `a` but C and K, which are set, and x_0.
// sigma_at: the place of sigma among a step's coefficients; the timestep comes next.
inline void check(const char* x_name, Tensors& t, int64_t coefficients, int64_t sigma_at, int64_t seed,
                  MlpChainArgs& a) {
  a.is_double = check_float_or_double(x_name, t.x);
  STD_TORCH_CHECK(t.x.dim() == 2 && t.w_in.dim() == 2 && t.embedding.dim() == 2, x_name,
                  ", w_in, embedding: expected matrices");
  a.B = t.x.size(0);
  a.D = t.x.size(1);
  a.H = t.w_in.size(0);
  a.S = t.embedding.size(0);
  a.E = t.embedding.size(1);
  STD_TORCH_CHECK(a.D > 0 && a.C > 0 && a.H > 0 && a.E > 0 && a.S > 0, "widths, steps: expected at least 1");
  const ScalarType type = t.x.scalar_type();
  t.x = checked_contiguous(x_name, t.x, type, {a.B, a.D});
  t.w_in = checked_contiguous("w_in", t.w_in, type, {a.H, a.D + a.E});
  t.b_in = checked_contiguous("b_in", t.b_in, type, {a.H});
  t.w_cond = checked_contiguous("w_cond", t.w_cond, type, {a.H, a.C});
  t.w_out = checked_contiguous("w_out", t.w_out, type, {a.D, a.H});
  t.b_out = checked_contiguous("b_out", t.b_out, type, {a.D});
  t.embedding = checked_contiguous("embedding", t.embedding, type, {a.S, a.E});
  t.step_coefficients =
      checked_contiguous("step_coefficients", t.step_coefficients, ScalarType::Double, {a.S, coefficients});
  t.noise = checked_contiguous("noise", t.noise, type, {a.S, a.B, a.D});
  t.row_ids = checked_contiguous("row_ids", t.row_ids, ScalarType::Long, {a.B});
  t.draw_ids = checked_contiguous("draw_ids", t.draw_ids, ScalarType::Long, {a.B});
  a.step_coefficients = in<double>(t.step_coefficients);
  for (int64_t s = 0; s < a.S; ++s) {
    const double sigma = a.step_coefficients[s * coefficients + sigma_at];
    const double timestep = a.step_coefficients[s * coefficients + sigma_at + 1];
    STD_TORCH_CHECK(timestep >= 0 && timestep < 4294967296.0, "step_coefficients: expected a timestep, got ", timestep);
    STD_TORCH_CHECK(sigma == 0 || t.noise || t.row_ids, "noise: expected noise or row_ids, as a step has noise");
  }
  a.x = t.x.const_data_ptr();
  a.embedding = t.embedding.const_data_ptr();
  a.w_in = t.w_in.const_data_ptr();
  a.b_in = t.b_in.const_data_ptr();
  a.w_cond = t.w_cond.const_data_ptr();
  a.w_out = t.w_out.const_data_ptr();
  a.b_out = t.b_out.const_data_ptr();
  a.noise = data_or_null(t.noise);
  a.generate_noise = !t.noise && t.row_ids;
  a.row_ids = a.generate_noise ? in<int64_t>(*t.row_ids) : nullptr;
  a.draw_ids = a.generate_noise && t.draw_ids ? in<int64_t>(*t.draw_ids) : nullptr;
  a.seed = static_cast<uint64_t>(seed);
}

using Source = PackedWeightsCache::Source;

// The weights that every chain packs.
inline std::vector<Source> packed_sources(MlpArgs& a) {
  const int64_t size = a.is_double ? 8 : 4;
  return {{a.embedding, a.S * a.E * size},    {a.b_in, a.H * size},        {a.b_out, a.D * size},
          {a.w_in, a.H * (a.D + a.E) * size}, {a.w_out, a.D * a.H * size}, {a.w_cond, a.H * a.C * size}};
}

template <class Args>
struct Kernel {
  void (*pack)(const Args&, void* scratch);
  void (*run)(const Args&, int64_t begin, int64_t end, void* scratch);
  int64_t packed, scratch;  // elements of the compute type
  int64_t variant;          // how the weights are packed, if there are several ways
  int64_t grain;            // least rows of a thread
};

template <class Args>
void run(Args& a, const Kernel<Args>& kernel, const std::vector<Source>& sources) {
  const int64_t size = a.is_double ? 8 : 4, bytes = (kernel.scratch * size + 63) / 64 * 64,
                packed = (kernel.packed * size + 63) / 64 * 64;
  auto* const cached =
      PackedWeightsCache::lookup<Args>({a.is_double + 2 * kernel.variant, a.D, a.C, a.H, a.E, a.S}, packed, sources);
  const int64_t all = cached ? bytes : bytes + packed;
  void* const scratch = thread_scratch(all);
  STD_TORCH_CHECK(scratch, "no memory for ", all, " bytes of scratch");
  a.packed = cached ? cached->packed : static_cast<char*>(scratch) + bytes;
  if (!cached || !cached->ready) {
    kernel.pack(a, scratch);
  }
  if (cached) {
    cached->ready = true;
  }
  const bool done = parallel_with_scratch(a.B, kernel.grain, bytes,
                                          [&](int64_t begin, int64_t end, void* s) { kernel.run(a, begin, end, s); });
  STD_TORCH_CHECK(done, "no memory for ", bytes, " bytes of scratch per thread");
}

}  // namespace mlp_chain
