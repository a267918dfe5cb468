// One kernel of each kind, without torch: tests plant mistakes into the headers, and see what the emulator says.
#include "raw.h"

#ifdef PLANAR_FLOW
#include "cuda/kernels/planar_flow.h"

// z [B, D], u, w [B, K, D], b [B, K] -> z_out, log_det [B], act [B, K]. Null, or the message of the exception.
API const char* run(float* z, float* u, float* w, float* b, float* z_out, float* log_det, float* act, int B, int K,
                    int D) {
  static std::string message;
  try {
    const planar::Parameters<float> p{pointer(u, B * K * D), pointer(w, B * K * D), K * D, D, K * D, D};
    launch("planar_flow", &planar::planar_flow_kernel<float, 2, 1>, dim3((B + planar::kWarps - 1) / planar::kWarps),
           dim3(32 * planar::kWarps), 0, nullptr, pointer(z, B * D), p, pointer(b, B * K), pointer(z_out, B * D),
           pointer(log_det, B), pointer(act, B * K), int64_t{B}, K, D, 1);
    return nullptr;
  } catch (const std::exception& e) {
    return (message = e.what()).c_str();
  }
}
#endif

#ifdef DENOISE_CHAIN
#include "cuda/kernels/chain.h"

constexpr int kWidth = 32, kHidden = 128;

// x [B, 32], shift [B, 128], times [S, 128], w_in [128, 32], w_out [32, 128], b_out [32], coefficients [S, 8], noise
// [S, B, 32] -> x_0 [B, 32], states [B, K, 32]; streamed: weights through two buffers.
API const char* run(float* x, float* shift, float* times, float* w_in, float* w_out, float* b_out, double* coefficients,
                    float* noise, float* x_0, float* states, int B, int S, int K, int streamed) {
  static std::string message;
  using Mlp = mlp::TensorCoreMlp<kWidth, 2, 2, mma::kTF32x3>;
  try {
    const mlp::Weights<float, float> w{pointer(w_in, kHidden * kWidth),
                                       pointer(w_out, kHidden * kWidth),
                                       pointer(b_out, kWidth),
                                       pointer(times, S * kHidden),
                                       kWidth,
                                       kHidden,
                                       !streamed};
    const chain::Denoise<float> a{pointer(x, B * kWidth),
                                  pointer(shift, B * kHidden),
                                  pointer(coefficients, S * 8),
                                  {pointer(noise, S * B * kWidth), {}, {}, 0},
                                  pointer(x_0, B * kWidth),
                                  pointer(states, B * K * kWidth),
                                  B,
                                  kWidth,
                                  S,
                                  K,
                                  2.5f};
    launch("denoise_chain", &chain::denoise_chain_kernel<Mlp>, dim3(2), dim3(Mlp::threads),
           Mlp::bytes(kHidden, !streamed) + 64, nullptr, a, w);
    return nullptr;
  } catch (const std::exception& e) {
    return (message = e.what()).c_str();
  }
}
#endif
