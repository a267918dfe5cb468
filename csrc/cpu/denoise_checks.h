// What the torch side of every denoising step checks and allocates.
#pragma once
#include <initializer_list>
#include <optional>

#include "cpu/checks.h"
#include "cpu/denoise.h"

namespace denoise {

inline OptionalTensor dense(const char* name, const OptionalTensor& t, const Tensor& like) {
  if (!t) {
    return {};
  }
  check_like(name, *t, like);
  return as_contiguous(*t);
}
// B, K, D of rows [B, D] or [B, K, D].
inline Args rows_of(const char* name, const Tensor& rows, int64_t kind, int64_t last_kind) {
  STD_TORCH_CHECK(rows.dim() == 2 || rows.dim() == 3, name, ": expected [B, D] or [B, K, D], got ", rows.dim(),
                  " dimensions");
  STD_TORCH_CHECK(kind >= 0 && kind <= last_kind, "kind: expected 0 to ", last_kind, ", got ", kind);
  Args a{};
  a.type = dtype_of(name, rows), a.kind = static_cast<int>(kind);
  a.B = rows.size(0), a.K = rows.dim() == 3 ? rows.size(1) : 1, a.D = rows.size(-1);
  return a;
}

inline PerRow per_row(const char* name, const OptionalTensor& t, double number, const Tensor& rows) {
  if (!t) {
    return {nullptr, false, 0, 0, number};
  }
  const bool is_double = t->scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || t->scalar_type() == ScalarType::Float, name, ": expected float32 or float64");
  STD_TORCH_CHECK(t->dim() == rows.dim() - 1, name, ": expected one number per row");
  for (int64_t i = 0; i < t->dim(); ++i) {
    STD_TORCH_CHECK(t->size(i) == rows.size(i), name, ": expected one number per row");
  }
  return {t->const_data_ptr(), is_double, t->stride(0), t->dim() == 2 ? t->stride(1) : 0, 0};
}

inline int64_t grain(const Args& a) { return 1 + 16384 / (a.K * a.D + 1); }

inline Tensor empty_like_if(bool wanted, const Tensor& t) {
  return empty_contiguous(t, wanted ? shape_of(t) : std::vector<int64_t>{0});
}

inline Tensor dots_for(bool wanted, const Tensor& rows, int64_t n) {
  std::vector<int64_t> s{0};
  if (wanted) {
    s = shape_of(rows);
    s.back() = n;
  }
  return empty_contiguous(rows, s, compute_type(rows));
}

inline void set_noise(Args& a, const OptionalTensor& noise, const OptionalTensor& row_ids, bool random, int64_t seed,
                      int64_t step) {
  a.noise_from = noise ? denoise::kGiven : random ? denoise::kMade : denoise::kNone;
  a.noise = data_or_null(noise);
  STD_TORCH_CHECK(step >= 0 && step < (INT64_C(1) << 32), "step: expected 0 to 2^32 - 1, got ", step);
  if (row_ids) {
    STD_TORCH_CHECK(row_ids->scalar_type() == ScalarType::Long && row_ids->dim() == 1 && row_ids->size(0) == a.B,
                    "row_ids: expected int64 [B]");
    a.row_ids = static_cast<const int64_t*>(row_ids->const_data_ptr());
  }
  a.seed = static_cast<uint64_t>(seed), a.step = static_cast<uint64_t>(step);
}

// Outputs are written past the caches if every vector of every row is aligned.
template <class A, class F>
inline void run(A& a, std::initializer_list<const void*> outputs, F f) {
  a.stream = a.type == DType::f32 && a.D % 16 == 0;
  for (const void* p : outputs) {
    a.stream = a.stream && (!p || use_streaming_stores(p, a.B * a.K * a.D * 4));  // null: not wanted
  }
  if (a.K * a.D > 0) {
    torch::stable::parallel_for(0, a.B, grain(a), [&](int64_t s, int64_t e) { f(a, s, e); });
  }
}

}  // namespace denoise
