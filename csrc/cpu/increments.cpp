// encode_increments and nested_min, forward and backward: check, allocate, share out the rows.
#include "cpu/increments.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "cpu/checks.h"

namespace {

using increments::Args;
void check(const char* name, const Tensor& t, const Tensor& like, int64_t B, int64_t K) {  // K < 0: [B]
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), name, ": expected the dtype of the first argument");
  STD_TORCH_CHECK(t.dim() == (K < 0 ? 1 : 2) && t.size(0) == B && (K < 0 || t.size(1) == K), name,
                  ": expected [B = ", B, K < 0 ? "]" : ", K]");
}

// [B, K] and its widths.
Args arguments(const Tensor& v, const Tensor& w, int64_t K) {
  Args a{};
  a.type = dtype_of("the first argument", v);
  a.B = v.size(0), a.K = K;
  a.shared = w.dim() == 1;
  STD_TORCH_CHECK(K > 0, "widths: expected at least one");
  STD_TORCH_CHECK(w.scalar_type() == v.scalar_type(), "widths: expected the dtype of the first argument");
  STD_TORCH_CHECK(a.shared ? w.size(0) == K : w.dim() == 2 && w.size(0) == a.B && w.size(1) == K,
                  "widths: expected [K] or [B, K], K = ", K);
  a.v = v.const_data_ptr(), a.w = w.const_data_ptr();
  return a;
}

void set_capacity(Args& a, const Tensor& v, const OptionalTensor& capacity, double cap) {
  if (capacity) {
    check("capacity", *capacity, v, a.B, -1);
  }
  a.capacity = data_or_null(capacity), a.cap = cap;
  a.capped = capacity || cap != INFINITY;
}

// A [B, K] output that would push everything else out of the caches, each line read before it is written, is written
// past them.
bool stream(const Args& a, const void* to) {
  const int64_t size = storage_size(a.type);
  // Rows of whole vectors. Rows of 32 bytes are half a vector in AVX-512, and are tiles there.
  return size > 2 && (a.K * size % 64 == 0 || a.K * size == 32) && use_streaming_stores(to, a.B * a.K * size);
}

int64_t padded(int64_t K) { return (K + 15) / 16 * 16; }  // whole vectors of any instruction set
int64_t grain(int64_t K) { return 1 + 16384 / K; }

// Runs f(begin, end, sums, scratch) on blocks of rows that depend on B and K alone, so that the sums do not on the
// threads. Both are [rows_of_K, padded K]; returns the sums of all blocks.
template <class F>
std::vector<double> in_blocks(const Args& a, int64_t sums, int64_t scratch, F f) {
  const int64_t P = padded(a.K), most = 65536 / P;
  const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>({64, most, (a.B + 1023) / 1024}));
  const int64_t size = (a.B + blocks - 1) / blocks, each = (sums + scratch) * P;
  std::vector<double> space(blocks * each);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      f(i * size, std::min(a.B, (i + 1) * size), &space[i * each], &space[i * each + sums * P]);
    }
  });
  for (int64_t i = 1; i < blocks; ++i) {
    for (int64_t k = 0; k < sums * P; ++k) {
      space[k] += space[i * each + k];
    }
  }
  space.resize(sums * P);
  return space;
}

// [K] doubles into a tensor of any type.
void write(const double* from, Tensor& to, int64_t K) {
  if (to.scalar_type() == ScalarType::Float) {
    std::transform(from, from + K, out<float>(to), [](double x) { return static_cast<float>(x); });
    return;
  }
  auto wide = empty_contiguous(to, {K}, ScalarType::Double);
  std::copy(from, from + K, out<double>(wide));
  torch::stable::copy_(to, wide);
}

Tensor encode_increments(const Tensor& y_, const Tensor& w_) {
  STD_TORCH_CHECK(y_.dim() == 1 && w_.dim() >= 1, "y: expected [B], widths [K] or [B, K]");
  const Tensor y = as_contiguous(y_), w = as_contiguous(w_);
  Args a = arguments(y, w, w.size(-1));
  auto v = empty_contiguous(y, {a.B, a.K});
  a.out = v.mutable_data_ptr();
  a.stream = stream(a, a.out);
  auto* f = ORD_DISPATCH(encode_increments);
  in_blocks(a, 0, 1, [&](int64_t s, int64_t e, double*, double* scratch) { f(a, s, e, scratch); });
  return v;
}

std::tuple<Tensor, Tensor> encode_increments_backward(const Tensor& y_, const Tensor& w_, const OptionalTensor& g_,
                                                      int64_t wanted) {
  STD_TORCH_CHECK(y_.dim() == 1 && w_.dim() >= 1, "y: expected [B], widths [K] or [B, K]");
  const Tensor y = as_contiguous(y_), w = as_contiguous(w_);
  Args a = arguments(y, w, w.size(-1));
  auto gy = empty_contiguous_like(y), gw = empty_contiguous_like(w);
  if (!g_) {
    return {torch::stable::fill_(gy, 0), torch::stable::fill_(gw, 0)};
  }
  check("g", *g_, y, a.B, a.K);
  const Tensor g = as_contiguous(*g_);
  a.g_out = g.const_data_ptr(), a.gv = gy.mutable_data_ptr();
  if (!a.shared) {
    a.gw = gw.mutable_data_ptr();
  }
  auto* f = ORD_DISPATCH(encode_increments_backward);
  const auto sums =
      in_blocks(a, 2, 3, [&](int64_t s, int64_t e, double* to, double* scratch) { f(a, s, e, to, scratch); });
  if (a.shared) {
    std::vector<double> total(a.K);
    double later = 0;
    for (int64_t k = a.K - 1; k >= 0; --k) {
      total[k] = sums[padded(a.K) + k] - later;
      later += sums[k];
    }
    write(total.data(), gw, a.K);
  }
  return {gy, gw};
}

std::tuple<Tensor, Tensor> nested_min(const Tensor& v_, const Tensor& w_, const OptionalTensor& capacity_, double cap) {
  STD_TORCH_CHECK(v_.dim() == 2 && w_.dim() >= 1, "increments: expected [B, K], widths [K] or [B, K]");
  const Tensor v = as_contiguous(v_), w = as_contiguous(w_);
  const OptionalTensor capacity = as_contiguous(capacity_);
  Args a = arguments(v, w, v.size(1));
  set_capacity(a, v, capacity, cap);
  auto value = empty_contiguous(v, {a.B}), clipped = empty_contiguous(v, {a.B, a.K});
  a.value = value.mutable_data_ptr(), a.out = clipped.mutable_data_ptr();
  a.stream = stream(a, a.out);
  auto* f = ORD_DISPATCH(nested_min);
  torch::stable::parallel_for(0, a.B, grain(a.K), [&](int64_t s, int64_t e) { f(a, s, e); });
  return {value, clipped};
}

std::tuple<Tensor, Tensor, Tensor> nested_min_backward(const Tensor& v_, const Tensor& w_,
                                                       const OptionalTensor& capacity_, const OptionalTensor& gy_,
                                                       const OptionalTensor& go_, double cap, int64_t wanted) {
  STD_TORCH_CHECK(v_.dim() == 2 && w_.dim() >= 1, "increments: expected [B, K], widths [K] or [B, K]");
  const Tensor v = as_contiguous(v_), w = as_contiguous(w_);
  const OptionalTensor capacity = as_contiguous(capacity_), gy = as_contiguous(gy_), go = as_contiguous(go_);
  Args a = arguments(v, w, v.size(1));
  set_capacity(a, v, capacity, cap);
  if (gy) {
    check("g_value", *gy, v, a.B, -1);
  }
  if (go) {
    check("g_clipped", *go, v, a.B, a.K);
  }
  const bool want_w = wanted & 2;
  auto gv = empty_contiguous(v, {a.B, a.K});
  auto gw = want_w ? empty_contiguous_like(w) : empty_contiguous(w, {0});
  auto gc = empty_contiguous(v, {capacity ? a.B : 0});
  a.g_value = data_or_null(gy), a.g_out = data_or_null(go);
  a.gv = gv.mutable_data_ptr();
  if (!a.shared && want_w) {
    a.gw = gw.mutable_data_ptr();
  }
  if (capacity) {
    a.gc = gc.mutable_data_ptr();
  }
  a.stream = stream(a, a.gv) && (!a.gw || stream(a, a.gw));
  auto* f = ORD_DISPATCH(nested_min_backward);
  if (a.shared && want_w) {
    const auto sums =
        in_blocks(a, 1, 1, [&](int64_t s, int64_t e, double* to, double* scratch) { f(a, s, e, to, scratch); });
    write(sums.data(), gw, a.K);
  } else {
    torch::stable::parallel_for(0, a.B, grain(a.K), [&](int64_t s, int64_t e) { f(a, s, e, nullptr, nullptr); });
  }
  return {gv, gw, gc};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("encode_increments", TORCH_BOX(&encode_increments));
  m.impl("_encode_increments", TORCH_BOX(&encode_increments));
  m.impl("encode_increments_backward", TORCH_BOX(&encode_increments_backward));
  m.impl("_encode_increments_backward", TORCH_BOX(&encode_increments_backward));
  m.impl("nested_min", TORCH_BOX(&nested_min));
  m.impl("_nested_min", TORCH_BOX(&nested_min));
  m.impl("nested_min_backward", TORCH_BOX(&nested_min_backward));
  m.impl("_nested_min_backward", TORCH_BOX(&nested_min_backward));
}
