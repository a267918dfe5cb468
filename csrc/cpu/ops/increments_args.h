// What the torch side and the kernels of encode_increments and nested_min share. The kernels are compiled for fp32 and
// fp64; half types reach them as fp32 rows in scratch memory (cpu/increments_calls.h).
#pragma once
#include <cstdint>

#include "common/declare_kernel.h"
#include "cpu/dtype.h"

namespace increments {

struct Args {
  DType type;            // of v
  const void* v;         // [B, K], or y [B]
  const void* w;         // [K] or [B, K]
  bool shared;           // widths are [K]
  const void* capacity;  // [B], or null: `cap`, or no cap at all
  double cap;
  bool capped;
  void* value;          // [B]
  void* out;            // [B, K]
  const void* g_value;  // [B] or null
  const void* g_out;    // [B, K] or null
  void* gv;             // [B, K], or of y [B]
  void* gw;             // [B, K] or null
  void* gc;             // [B] or null
  bool stream;          // write [B, K] past the caches
  int64_t B, K;
};

}  // namespace increments

// Shared widths: one block of rows leaves its part of the gradient in `sums` [K]; `scratch` [K] is its own.
// encode_backward leaves sums [2, K]: what passes, and what lies above; scratch [2, K].
ORD_DECLARE_KERNEL(encode_increments, const increments::Args&, int64_t begin, int64_t end, double* scratch);
ORD_DECLARE_KERNEL(encode_increments_backward, const increments::Args&, int64_t begin, int64_t end, double* sums,
                   double* scratch);
ORD_DECLARE_KERNEL(nested_min, const increments::Args&, int64_t begin, int64_t end);
ORD_DECLARE_KERNEL(nested_min_backward, const increments::Args&, int64_t begin, int64_t end, double* sums,
                   double* scratch);
