// What the torch side and the kernels of the diffusion steps share: rows (b, k) of D elements, their levels and noise.
#pragma once
#include <cstdint>

#include "common/declare_kernel.h"
#include "cpu/dtype.h"

namespace diffusion {

// What a denoiser's output is; kFlow: the velocity of flow matching.
enum Prediction { kEps = 0, kX0 = 1, kV = 2, kFlow = 3 };

// alpha_bar (in flow matching the time) of row (b, k): values[b * stride_b + k * stride_k], or `constant` where values
// is null.
struct Levels {
  const void* values;
  bool is_double;  // else float
  int64_t stride_b, stride_k;
  double constant;
};

// Tensors are [B, K, D] and contiguous, of type `type`, if nothing else is said.
struct Rows {
  DType type;
  int64_t B, K, D;
  Levels t, s;             // the level of the input; the level that a step goes to
  const void* noise;       // null: none, or generated
  bool generate_noise;     // element k D + d of row row_ids[b]
  const int64_t* row_ids;  // null: b
  uint64_t seed, step;
  bool streaming_stores;  // write past the caches
};

struct SampleArgs : Rows {
  int prediction;  // kFlow, or any other
  bool x0_per_b;   // x0 is [B, D], for every k the same
  const void* x0;
  void* x_t;
  const void* g_x_t;
  void *g_x0, *g_noise;  // null: not wanted
  void* dots;            // [B, K, 2], the gradients of the coefficients, in the compute type; null: not wanted
};

struct StepArgs : Rows {
  int prediction;
  double eta, clip;
  bool use_clipped_output;  // eps again, from x_t and the clipped x0
  const void *x_t, *output;
  void *x_s, *x0;
  const void *g_x_s, *g_x0;          // null: zero
  void *g_x_t, *g_output, *g_noise;  // null: not wanted
  void* dots;                        // [B, K, 6], of predict_x0 [B, K, 2]; null: not wanted
};

// `f`: the combination of the estimates of x0 without guidance, guided by cp, guided by tf.
struct GuidedArgs : Rows {
  double gamma_cp, gamma_tf;
  bool beta_variance;  // the variance is beta, not the posterior's
  const void *x_t, *f_un, *f_cp, *f_tf;
  void *x_s, *f;
  const void *g_x_s, *g_f;                     // null: zero
  void *g_x_t, *g_un, *g_cp, *g_tf, *g_noise;  // null: not wanted
  void* dots;                                  // [B, K, 3]; null: not wanted
};

}  // namespace diffusion
