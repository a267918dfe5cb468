// What every op's .cpp file needs of torch: tensors and typed pointers. Checks are in checks.h.
#pragma once
#include <sys/mman.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "common/isa.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalNumber = std::optional<double>;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
inline const void* data_or_null(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }

// Asks for large pages: at their first touch, small ones cost a kernel that writes them as much as its arithmetic. As
// NumPy does; where the system has none the request does nothing.
inline void ask_for_large_pages([[maybe_unused]] void* p, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  if (bytes >= INT64_C(4) << 20) {
    const uintptr_t from = (reinterpret_cast<uintptr_t>(p) + kPage - 1) / kPage * kPage,
                    to = (reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
    madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
  }
#endif
}

// new_empty and contiguous for small calls: torch's own look the op up by its name, a microsecond each.
inline Tensor empty_contiguous(const Tensor& like, Sizes sizes, std::optional<ScalarType> type = {}) {
  const int64_t n = static_cast<int64_t>(sizes.size());
  std::vector<int64_t> strides(n);
  for (int64_t i = n, step = 1; i-- > 0; step *= sizes[i] > 0 ? sizes[i] : 1) {
    strides[i] = step;
  }
  int32_t dtype, device, index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  if (type) {
    dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*type));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  }
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(n, sizes.data(), strides.data(), dtype, device, index, &made));
  Tensor t(made);
  if (t.is_cpu() && t.numel() > 1 << 19) {
    ask_for_large_pages(t.mutable_data_ptr(), t.numel() * static_cast<int64_t>(t.element_size()));
  }
  return t;
}
inline Tensor empty_contiguous_like(const Tensor& t) { return empty_contiguous(t, t.sizes()); }

// Is an output better written past the caches? Not a small one, which they hold, nor one in pages that the system has
// yet to hand out: it zeroes each at its first touch, in the caches. `together`: bytes of all that is written in the
// same pass.
inline bool use_streaming_stores(const void* to, int64_t bytes, int64_t together = 0) {
  if (std::max(bytes, together) < (INT64_C(8) << 20) || reinterpret_cast<uintptr_t>(to) % 64) {
    return false;
  }
  const uintptr_t page = (reinterpret_cast<uintptr_t>(to) + bytes / 2) & ~uintptr_t(4095);
  unsigned char there = 1;
  return mincore(reinterpret_cast<void*>(page), 1, &there) || there & 1;
}

inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline OptionalTensor as_contiguous(const OptionalTensor& t) {
  return t ? OptionalTensor(as_contiguous(*t)) : std::nullopt;
}

inline std::vector<int64_t> shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }
