// What the torch side and the kernels of the denoising steps share.
#pragma once
#include <cstdint>

#include "common/declare_kernel.h"
#include "cpu/dtype.h"

namespace denoise {

enum Kind { kEps = 0, kX0 = 1, kV = 2, kFlow = 3 };
enum Noise { kNone = 0, kGiven = 1, kMade = 2 };

// alpha_bar (or the time, in flow matching) of row (b, k): p[b * by_b + k * by_k], or `number` where p is null.
struct PerRow {
  const void* p;
  bool is_double;  // double, else float
  int64_t by_b, by_k;
  double number;
};

// Rows (b, k) of D elements; noise is keyed by b, its lane is k D + d.
struct Args {
  DType type;
  int kind, noise_from;
  const void *x, *output, *noise;
  PerRow t, s;
  double eta, clip;
  bool whole;              // a step to x_s, not x0 alone
  bool reclip;             // eps again from the clipped x0
  const int64_t* row_ids;  // null: b
  uint64_t seed, step;
  void *x_s, *x0;
  const void *g_xs, *g_x0;         // null: zero
  void *g_x, *g_output, *g_noise;  // null: not wanted
  void* dots;                      // [B, K, 6 or 2], in the compute type; null: not wanted
  int64_t B, K, D;
  bool x_per_b;  // sample: x is [B, D], for every k the same
  bool stream;   // write past the caches
};

// A guided posterior step: `output` is the branch without guidance, x0 the combination of the three.
struct Guided : Args {
  const void *f_cp, *f_tf;
  double gamma_cp, gamma_tf;
  bool beta;  // the variance is beta, not the posterior's
  void *g_cp, *g_tf;
};

}  // namespace denoise

ORD_DECLARE_KERNEL(reverse_step, const denoise::Args&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(reverse_step_backward, const denoise::Args&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(sample, const denoise::Args&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(sample_backward, const denoise::Args&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(guided_step, const denoise::Guided&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(guided_step_backward, const denoise::Guided&, int64_t begin, int64_t end);
