// What the torch side of every diffusion step checks and allocates.
#pragma once
#include <initializer_list>
#include <optional>

#include "cpu/checks.h"
#include "cpu/diffusion_args.h"

namespace diffusion {

// Contiguous and like `like`, or none.
inline OptionalTensor checked_like(const char* name, const OptionalTensor& t, const Tensor& like) {
  if (!t) {
    return {};
  }
  check_like(name, *t, like);
  return as_contiguous(*t);
}

// One level for each row of `rows` [B, D] or [B, K, D], or the constant.
inline Levels checked_levels(const char* name, const OptionalTensor& t, double constant, const Tensor& rows) {
  if (!t) {
    return {nullptr, false, 0, 0, constant};
  }
  const bool is_double = t->scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || t->scalar_type() == ScalarType::Float, name, ": expected float32 or float64, got ",
                  dtype_text(t->scalar_type()));
  check_shape(name, *t, {rows.sizes().data(), static_cast<size_t>(rows.dim() - 1)});
  return {t->const_data_ptr(), is_double, t->stride(0), t->dim() == 2 ? t->stride(1) : 0, 0};
}

// Sets the sizes of rows [B, D] or [B, K, D], and no level or noise.
template <class Args>
Args args_of(const char* name, const Tensor& rows) {
  STD_TORCH_CHECK(rows.dim() == 2 || rows.dim() == 3, name, ": expected [B, D] or [B, K, D], got ", shape_text(rows));
  Args a{};
  a.type = dtype_of(name, rows);
  a.B = rows.size(0);
  a.K = rows.dim() == 3 ? rows.size(1) : 1;
  a.D = rows.size(-1);
  return a;
}

// Of predict_x0 and reverse_step: what the estimate of x0 takes.
inline StepArgs step_args(const Tensor& x_t, const Tensor& output, const Levels& t, int64_t prediction,
                          OptionalNumber clip) {
  STD_TORCH_CHECK(prediction >= kEps && prediction <= kFlow, "kind: expected 0 to 3, got ", prediction);
  StepArgs a = args_of<StepArgs>("x_t", x_t);
  check_like("output", output, x_t);
  a.x_t = x_t.const_data_ptr();
  a.output = output.const_data_ptr();
  a.t = t;
  a.prediction = static_cast<int>(prediction);
  a.clip = clip.value_or(INFINITY);
  return a;
}

// Noise as the ops take it: a tensor, or generated from seed, row ids and step, or none.
struct Noise {
  OptionalTensor tensor, row_ids;
  bool random;
  int64_t seed, step;
};

inline void set_noise(Rows& a, const Noise& noise) {
  STD_TORCH_CHECK(noise.step >= 0 && noise.step < (INT64_C(1) << 32), "step: expected 0 to 2^32 - 1, got ", noise.step);
  a.generate_noise = !noise.tensor && noise.random;
  a.noise = data_or_null(noise.tensor);
  if (noise.row_ids) {
    check_dtype("row_ids", *noise.row_ids, ScalarType::Long);
    check_shape("row_ids", *noise.row_ids, {a.B});
    a.row_ids = in<int64_t>(*noise.row_ids);
  }
  a.seed = static_cast<uint64_t>(noise.seed);
  a.step = static_cast<uint64_t>(noise.step);
}

// A gradient like `t`, and its pointer for the kernel; empty and null where it is not wanted.
inline Tensor gradient_like(const Tensor& t, bool wanted, void*& data) {
  Tensor g = empty_contiguous(t, wanted ? shape_of(t) : std::vector<int64_t>{0});
  data = wanted ? g.mutable_data_ptr() : nullptr;
  return g;
}

// The gradients of n coefficients per row, in the compute type.
inline Tensor coefficient_gradients(const Tensor& rows, int64_t n, bool wanted, void*& data) {
  std::vector<int64_t> shape = shape_of(rows);
  shape.back() = n;
  Tensor g = empty_contiguous(rows, wanted ? shape : std::vector<int64_t>{0}, compute_type(rows));
  data = wanted ? g.mutable_data_ptr() : nullptr;
  return g;
}

// Runs f(args, begin, end) over rows b. Outputs (null: not wanted) are written past the caches if they are large and
// every vector of every row is aligned.
template <class Args, class F>
void run(Args& a, std::initializer_list<const void*> outputs, F f) {
  const int64_t row = a.K * a.D;
  a.streaming_stores = a.type == DType::f32 && a.D % 16 == 0;
  for (const void* p : outputs) {
    a.streaming_stores = a.streaming_stores && (!p || use_streaming_stores(p, a.B * row * 4));
  }
  if (row > 0) {
    torch::stable::parallel_for(0, a.B, 1 + 16384 / (row + 1), [&](int64_t begin, int64_t end) { f(a, begin, end); });
  }
}

}  // namespace diffusion
