// What encode_increments and nested_min share on the side of torch: checks, arguments, and how rows are shared out.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>

#include "cpu/checks.h"
#include "cpu/increments_half_rows.h"
#include "cpu/ops/increments_args.h"

namespace increments {

inline void check(const char* name, const Tensor& t, const Tensor& like, int64_t B, int64_t K) {  // K < 0: [B]
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), name, ": expected the dtype of the first argument");
  STD_TORCH_CHECK(t.dim() == (K < 0 ? 1 : 2) && t.size(0) == B && (K < 0 || t.size(1) == K), name,
                  ": expected [B = ", B, K < 0 ? "]" : ", K]");
}

// [B, K] and its widths.
inline Args arguments(const Tensor& v, const Tensor& w, int64_t K) {
  Args a{};
  a.type = dtype_of("the first argument", v);
  a.B = v.size(0);
  a.K = K;
  a.shared = w.dim() == 1;
  STD_TORCH_CHECK(K > 0, "widths: expected at least one");
  STD_TORCH_CHECK(w.scalar_type() == v.scalar_type(), "widths: expected the dtype of the first argument");
  STD_TORCH_CHECK(a.shared ? w.size(0) == K : w.dim() == 2 && w.size(0) == a.B && w.size(1) == K,
                  "widths: expected [K] or [B, K], K = ", K);
  a.v = v.const_data_ptr();
  a.w = w.const_data_ptr();
  return a;
}

inline void set_capacity(Args& a, const Tensor& v, const OptionalTensor& capacity, OptionalNumber cap) {
  if (capacity) {
    check("capacity", *capacity, v, a.B, -1);
  }
  a.capacity = data_or_null(capacity);
  a.cap = cap.value_or(INFINITY);
  a.capped = capacity || a.cap != INFINITY;
}

// A [B, K] output that would push everything else out of the caches, each line read before it is written, is written
// past them.
inline bool use_stream(const Args& a, const void* to) {
  const int64_t size = storage_size(a.type);
  // Rows of whole vectors. Rows of 32 bytes are half a vector in AVX-512, and are tiles there.
  return size > 2 && (a.K * size % 64 == 0 || a.K * size == 32) && use_streaming_stores(to, a.B * a.K * size);
}

inline int64_t padded(int64_t K) { return (K + 15) / 16 * 16; }  // whole vectors of any instruction set
inline int64_t grain(int64_t K) { return 1 + 16384 / K; }

// f(args, begin, end) for the rows [begin, end), of half types as fp32 rows from 0 on; false without memory.
template <class F>
bool in_compute_type(const Args& a, int64_t v_width, int64_t begin, int64_t end, const F& f) {
  if (!is_half(a.type)) {
    f(a, begin, end);
    return true;
  }
  return HalfRows(a, v_width).run(begin, end, [&](const Args& b, int64_t n) { f(b, 0, n); });
}

inline void check_memory(bool ok) { STD_TORCH_CHECK(ok, "increments: out of memory"); }

// Runs f(args, begin, end) on all rows.
template <class F>
void on_rows(const Args& a, int64_t v_width, const F& f) {
  std::atomic<bool> ok = true;
  torch::stable::parallel_for(0, a.B, grain(a.K), [&](int64_t begin, int64_t end) {
    if (!in_compute_type(a, v_width, begin, end, f)) {
      ok = false;
    }
  });
  check_memory(ok);
}

// Runs f(args, begin, end, sums, scratch) on blocks of rows that depend on B and K alone, so that the sums do not on
// the threads. sums and scratch are [so many, padded K]; returns the sums of all blocks.
template <class F>
std::vector<double> in_blocks(const Args& a, int64_t v_width, int64_t sums, int64_t scratch, const F& f) {
  const int64_t P = padded(a.K), most = 65536 / P;
  const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>({64, most, (a.B + 1023) / 1024}));
  const int64_t size = (a.B + blocks - 1) / blocks, each = (sums + scratch) * P;
  std::vector<double> space(blocks * each);
  std::atomic<bool> ok = true;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      double *const to = &space[i * each], *const memory = to + sums * P;
      const auto body = [&](const Args& b, int64_t begin, int64_t end) { f(b, begin, end, to, memory); };
      if (!in_compute_type(a, v_width, i * size, std::min(a.B, (i + 1) * size), body)) {
        ok = false;
      }
    }
  });
  check_memory(ok);
  for (int64_t i = 1; i < blocks; ++i) {
    for (int64_t k = 0; k < sums * P; ++k) {
      space[k] += space[i * each + k];
    }
  }
  space.resize(sums * P);
  return space;
}

// [K] doubles into a tensor of any type.
inline void write(const double* from, Tensor& to, int64_t K) {
  if (to.scalar_type() == ScalarType::Float) {
    std::transform(from, from + K, out<float>(to), [](double x) { return static_cast<float>(x); });
    return;
  }
  auto doubles = empty_contiguous(to, {K}, ScalarType::Double);
  std::copy(from, from + K, out<double>(doubles));
  torch::stable::copy_(to, doubles);
}

}  // namespace increments
