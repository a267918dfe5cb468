// The checks that every op's .cpp file makes of its tensors. Python has checked them before: this is the second line,
// for calls of torch.ops.ordkernels.* by hand.
#pragma once
#include <string>

#include "cpu/dtype.h"
#include "cpu/torch.h"

inline std::string shape_text(Sizes sizes) {
  std::string s = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    s += (i ? ", " : "") + std::to_string(sizes[i]);
  }
  return s + "]";
}

inline std::string shape_text(const Tensor& t) { return shape_text(t.sizes()); }

inline const char* dtype_text(ScalarType t) {
  switch (t) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Long: return "int64";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Bool: return "bool";
    default: return "another dtype";
  }
}

inline bool has_shape(const Tensor& t, Sizes expected) {
  bool same = t.dim() == static_cast<int64_t>(expected.size());
  for (int64_t i = 0; same && i < t.dim(); ++i) {
    same = t.size(i) == expected[i];
  }
  return same;
}

inline void check_shape(const char* name, const Tensor& t, Sizes expected) {
  STD_TORCH_CHECK(has_shape(t, expected), name, ": expected shape ", shape_text(expected), ", got ",
                  shape_text(t.sizes()));
}

inline void check_dtype(const char* name, const Tensor& t, ScalarType expected) {
  STD_TORCH_CHECK(t.is_cpu(), name, ": expected a tensor on the CPU, got one elsewhere");
  STD_TORCH_CHECK(t.scalar_type() == expected, name, ": expected ", dtype_text(expected), ", got ",
                  dtype_text(t.scalar_type()));
}

// Of the dtype and shape of another tensor.
inline void check_like(const char* name, const Tensor& t, const Tensor& like) {
  check_dtype(name, t, like.scalar_type());
  check_shape(name, t, like.sizes());
}

// Contiguous, after its dtype and shape are checked.
inline Tensor checked_contiguous(const char* name, const Tensor& t, ScalarType type,
                                 std::initializer_list<int64_t> shape) {
  check_dtype(name, t, type);
  check_shape(name, t, shape);
  return as_contiguous(t);
}
inline OptionalTensor checked_contiguous(const char* name, const OptionalTensor& t, ScalarType type,
                                         std::initializer_list<int64_t> shape) {
  return t ? OptionalTensor(checked_contiguous(name, *t, type, shape)) : std::nullopt;
}

// The one switch from torch's dtypes to the kernels'.
inline DType dtype_of(const char* name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    default:
      STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16, got ",
                      dtype_text(t.scalar_type()));
  }
}

// For ops that compute in the type that they store, float32 or float64. Is it the latter?
inline bool check_float_or_double(const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
                  ": expected float32 or float64, got ", dtype_text(t.scalar_type()));
  return t.scalar_type() == ScalarType::Double;
}

inline ScalarType compute_type(DType t) { return t == DType::f64 ? ScalarType::Double : ScalarType::Float; }
inline ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
