// Which MLP a chain runs on: of tensor cores or plain, with the weights in shared memory or streamed.
#pragma once
#include "kernels/mlp.h"
#include "torch.h"

namespace mlp {

enum Path : int64_t { kPlain = 0, kTF32x3 = 1, kBF16 = 2 };

struct WeightTensors {  // padded: D to 32, 64 or 128 and H to a multiple of 64; plain: transposed, D to a multiple of 4
  Tensor w_in, w_out, b_out, times;
  int64_t D, H;
  Path path;

  WeightTensors(const Tensor& w_in_, const Tensor& w_out_, const Tensor& b_out_, const Tensor& times_, int64_t path_)
      : w_in(w_in_), w_out(w_out_), b_out(b_out_), times(times_), path(static_cast<Path>(path_)) {
    STD_TORCH_CHECK(path >= 0 && path <= 2 && b_out.dim() == 1 && times.dim() == 2,
                    "b_out, times: expected [D], [S, H]");
    D = b_out.size(0), H = times.size(1);
    const ScalarType type = times.scalar_type(), weight = path == kBF16 ? ScalarType::BFloat16 : type;
    const bool transposed = path == kPlain;
    check("w_in", w_in, weight, {transposed ? D : H, transposed ? H : D});
    check("w_out", w_out, weight, {transposed ? H : D, transposed ? D : H});
    check("b_out", b_out, type, {D});
    STD_TORCH_CHECK(transposed ? D % 4 == 0 : H % 64 == 0 && (D == 32 || D == 64 || D == 128), "w_in: wrongly padded");
    for (const Tensor* t : {&w_in, &w_out, &b_out, &times}) {
      STD_TORCH_CHECK(t->is_contiguous() && aligned(*t, 16), "expected weights at multiples of 16 bytes");
    }
  }
  template <class Mlp>
  Weights<typename Mlp::A, typename Mlp::W> of(bool resident) const {
    using A = typename Mlp::A;
    using W = typename Mlp::W;
    return {in<W>(w_in), in<W>(w_out), in<A>(b_out), in<A>(times), static_cast<int>(D), static_cast<int>(H), resident};
  }
};

template <class Mlp_>
struct Choice {
  using Mlp = Mlp_;
  bool resident;
  int64_t bytes;  // of shared memory
};

// go(Choice) of what fits, whose kernel takes `tiles` [rows, D] more: rather two tiles of 16 rows than streamed
// weights, and rather those than idle multiprocessors.
template <int D, int WN, mma::Precision P, class F>
bool choose_tensor_cores(const OnDevice& on, const WeightTensors& w, int64_t B, int tiles, F go) {
  using Two = TensorCoreMlp<D, 2, WN, P>;
  using One = TensorCoreMlp<D, D <= 64 ? 1 : 2, WN, P>;
  const int64_t most = most_shared(on.index), blocks = multiprocessors(on.index);
  const auto bytes = [&](int64_t rows, int64_t own) { return own + tiles * rows * D * 4 + 64; };
  for (const bool resident : {true, false}) {
    if (const int64_t n = bytes(Two::rows, Two::bytes(w.H, resident)); n <= most && B > 16 * blocks) {
      return go(Choice<Two>{resident, n}), true;
    }
    if (const int64_t n = bytes(One::rows, One::bytes(w.H, resident)); n <= most) {
      return go(Choice<One>{resident, n}), true;
    }
  }
  return false;
}
template <class A, class F>
bool choose_plain(const OnDevice& on, const WeightTensors& w, int tiles, F go) {
  const int64_t most = most_shared(on.index);
  const auto bytes = [&](int64_t rows) {
    return rows * (2 * w.D + w.H + tiles * w.D) * static_cast<int64_t>(sizeof(A)) + 128;
  };
  if (bytes(8) <= most) {
    return go(Choice<PlainMlp<A, 8>>{true, bytes(8)}), true;
  }
  if (bytes(1) <= most) {
    return go(Choice<PlainMlp<A, 1>>{true, bytes(1)}), true;
  }
  return false;
}

// The blocks of a persistent kernel.
template <class Mlp>
dim3 persistent_blocks(const OnDevice& on, int64_t B) {
  const int64_t tiles = blocks_of(B, Mlp::rows),
                most = static_cast<int64_t>(multiprocessors(on.index)) * Mlp::min_blocks;
  return dim3(static_cast<unsigned>(tiles < most ? tiles : most));
}

}  // namespace mlp
