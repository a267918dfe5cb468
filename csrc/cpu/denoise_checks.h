// What the torch side of every denoising step checks and allocates.
#pragma once
#include <initializer_list>
#include <optional>

#include "cpu/denoise.h"
#include "cpu/torch.h"

namespace denoise {

using Maybe = std::optional<Tensor>;

inline int type_code(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return 0;
    case ScalarType::Double: return 1;
    case ScalarType::BFloat16: return 2;
    case ScalarType::Half: return 3;
    default: STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16");
  }
}

inline ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) {
    return false;
  }
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != b.size(i)) {
      return false;
    }
  }
  return true;
}

inline void check_like(const char* name, const Tensor& t, const Tensor& like) {
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), name, ": expected the dtype of the first argument");
  STD_TORCH_CHECK(same_shape(t, like), name, ": expected the shape of the rows");
}

inline Maybe dense(const char* name, const Maybe& t, const Tensor& like) {
  if (!t) {
    return {};
  }
  check_like(name, *t, like);
  return compact(*t);
}
inline const void* data(const Maybe& t) { return t ? t->const_data_ptr() : nullptr; }

// B, K, D of rows [B, D] or [B, K, D].
inline Args rows_of(const char* name, const Tensor& rows, int64_t kind, int64_t last_kind) {
  STD_TORCH_CHECK(rows.dim() == 2 || rows.dim() == 3, name, ": expected [B, D] or [B, K, D], got ", rows.dim(),
                  " dimensions");
  STD_TORCH_CHECK(kind >= 0 && kind <= last_kind, "kind: expected 0 to ", last_kind, ", got ", kind);
  Args a{};
  a.type = type_code(rows), a.kind = static_cast<int>(kind);
  a.B = rows.size(0), a.K = rows.dim() == 3 ? rows.size(1) : 1, a.D = rows.size(-1);
  return a;
}

inline PerRow per_row(const char* name, const Maybe& t, double number, const Tensor& rows) {
  if (!t) {
    return {nullptr, false, 0, 0, number};
  }
  const bool wide = t->scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(wide || t->scalar_type() == ScalarType::Float, name, ": expected float32 or float64");
  STD_TORCH_CHECK(t->dim() == rows.dim() - 1, name, ": expected one number per row");
  for (int64_t i = 0; i < t->dim(); ++i) {
    STD_TORCH_CHECK(t->size(i) == rows.size(i), name, ": expected one number per row");
  }
  return {t->const_data_ptr(), wide, t->stride(0), t->dim() == 2 ? t->stride(1) : 0, 0};
}

inline int64_t grain(const Args& a) { return 1 + 16384 / (a.K * a.D + 1); }

inline std::vector<int64_t> sizes(const Tensor& t) {
  std::vector<int64_t> s;
  for (int64_t i = 0; i < t.dim(); ++i) {
    s.push_back(t.size(i));
  }
  return s;
}

inline Tensor empty_like_if(bool wanted, const Tensor& t) {
  return fresh(t, wanted ? sizes(t) : std::vector<int64_t>{0});
}

inline Tensor dots_for(bool wanted, const Tensor& rows, int64_t n) {
  std::vector<int64_t> s{0};
  if (wanted) {
    s = sizes(rows);
    s.back() = n;
  }
  return fresh(rows, s, compute_type(rows));
}

inline void set_noise(Args& a, const Maybe& noise, const Maybe& row_ids, bool random, int64_t seed, int64_t step) {
  a.noise_from = noise ? denoise::kGiven : random ? denoise::kMade : denoise::kNone;
  a.noise = data(noise);
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
  a.stream = a.type == 0 && a.D % 16 == 0;
  for (const void* p : outputs) {
    a.stream = a.stream && (!p || past_caches(p, a.B * a.K * a.D * 4));  // null: not wanted
  }
  if (a.K * a.D > 0) {
    torch::stable::parallel_for(0, a.B, grain(a), [&](int64_t s, int64_t e) { f(a, s, e); });
  }
}

}  // namespace denoise
