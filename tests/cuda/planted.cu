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
