// Rows of a half type for the fp32 kernels of increments: a few at a time through scratch memory.
#pragma once
#include <algorithm>

#include "cpu/convert_rows.h"
#include "cpu/ops/increments_args.h"
#include "cpu/scratch.h"
#include "cpu/torch.h"

namespace increments {

// A tensor with a row of `width` numbers for each row of increments.
struct RowInput {
  const void* Args::* data;
  int64_t width;
};
struct RowOutput {
  void* Args::* data;
  int64_t width;
};

class HalfRows {
 public:
  // v_width: of the first argument, K, or 1 for y.
  HalfRows(const Args& a, int64_t v_width)
      : a_(a),
        inputs_{{&Args::v, v_width}, {&Args::w, a.K}, {&Args::capacity, 1}, {&Args::g_value, 1}, {&Args::g_out, a.K}},
        outputs_{{&Args::value, 1}, {&Args::out, a.K}, {&Args::gv, v_width}, {&Args::gw, a.K}, {&Args::gc, 1}} {
    // Tens of kilobytes, and of ordinary rows whole vectors of them.
    rows_ = std::clamp<int64_t>(8192 / a.K / 16 * 16, a.K <= 8192 ? 16 : 1, 256);
  }

  // Calls f(fp32 arguments, n) for the rows [begin, end), n at a time; false without memory.
  template <class F>
  bool run(int64_t begin, int64_t end, const F& f) const {
    int64_t floats = 0;
    for (const RowInput& i : inputs_) {
      floats += rows_ * i.width + kPadding;
    }
    for (const RowOutput& o : outputs_) {
      floats += rows_ * o.width + kPadding;
    }
    float* const scratch = static_cast<float*>(thread_scratch(floats * sizeof(float)));
    if (!scratch) {
      return false;
    }
    const auto widen = ORD_DISPATCH(half_to_float);
    const auto narrow = ORD_DISPATCH(float_to_half);
    for (int64_t r = begin; r < end; r += rows_) {
      const int64_t n = std::min(rows_, end - r);
      Args b = a_;
      b.type = DType::f32;
      b.B = n;
      float* next = scratch;
      for (const RowInput& i : inputs_) {
        const void* const from = a_.*i.data;
        const bool shared = i.data == &Args::w && a_.shared;
        if (from && !(shared && r > begin)) {
          widen(a_.type, shared ? from : element(from, r * i.width), (shared ? 1 : n) * i.width, next);
        }
        b.*i.data = from ? next : nullptr;
        next += rows_ * i.width + kPadding;
      }
      for (const RowOutput& o : outputs_) {
        b.*o.data = a_.*o.data ? next : nullptr;
        next += rows_ * o.width + kPadding;
      }
      f(b, n);
      for (const RowOutput& o : outputs_) {
        if (void* const to = a_.*o.data) {
          narrow(a_.type, static_cast<const float*>(b.*o.data), n * o.width,
                 const_cast<void*>(element(to, r * o.width)));
        }
      }
    }
    return true;
  }

 private:
  static constexpr int64_t kPadding = 16;  // vectors are read whole

  const void* element(const void* p, int64_t i) const {
    return static_cast<const char*>(p) + i * storage_size(a_.type);
  }

  const Args& a_;
  const RowInput inputs_[5];
  const RowOutput outputs_[5];
  int64_t rows_;
};

}  // namespace increments
