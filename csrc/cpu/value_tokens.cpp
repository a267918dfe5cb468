// embedding_mixup and windowed_value, forward and backward: check, allocate, share out the rows.
#include "cpu/value_tokens.h"

#include <algorithm>
#include <optional>

#include "cpu/checks.h"
#include "cpu/scratch.h"

namespace {

using value_tokens::Args;
using value_tokens::padded;

// [V, E] or [V] in the compute type, its last dimension padded by zeros.
Tensor widened(const Tensor& table, const Args& a) {
  const bool flat = table.dim() == 1;
  auto wide = torch::stable::new_empty(table, flat ? std::vector<int64_t>{a.P} : std::vector<int64_t>{a.V, a.P},
                                       compute_type(a.type));
  torch::stable::fill_(wide, 0);
  auto inner = torch::stable::narrow(wide, flat ? 0 : 1, 0, flat ? a.V : a.E);
  torch::stable::copy_(inner, table);
  return wide;
}

struct Call {
  Args a{};
  Tensor logits, table;
  std::vector<double> transposed;
  Call(const Tensor& logits_, const Tensor& table_, int dims, int64_t window) : logits(as_contiguous(logits_)) {
    a.type = dtype_of("logits", logits);
    STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "logits: expected [R, V] with V at least 1");
    a.R = logits.size(0), a.V = logits.size(1);
    STD_TORCH_CHECK(a.V < (INT64_C(1) << 30), "logits: expected V below 2^30, got ", a.V);
    STD_TORCH_CHECK(table_.dim() == dims && table_.size(0) == a.V && table_.size(dims - 1) > 0,
                    dims == 2 ? "embedding: expected [V, E]" : "values: expected [V]", " with V = ", a.V);
    a.wide = table_.scalar_type() != logits.scalar_type();
    STD_TORCH_CHECK(!a.wide || table_.scalar_type() == compute_type(a.type),
                    "expected a table of the dtype of logits or of the computation");
    a.E = dims == 2 ? table_.size(1) : 1;
    a.P = padded(dims == 2 ? a.E : a.V);
    a.half = window < 0 ? -1 : window / 2;
    a.block = std::clamp<int64_t>(131072 / (2 * padded(a.V) + a.P) / value_tokens::kTile * value_tokens::kTile,
                                  value_tokens::kTile, value_tokens::kBlock);
    table = widened(table_, a);
    a.logits = logits.const_data_ptr(), a.table = table.const_data_ptr();
  }
  template <class T>
  void transpose() {
    const int64_t Q = padded(a.V);
    transposed.assign(a.E * Q * sizeof(T) / sizeof(double) + 1, 0);
    T* to = reinterpret_cast<T*>(transposed.data());
    const T* from = in<T>(table);
    for (int64_t j = 0; j < a.V; ++j) {
      for (int64_t e = 0; e < a.E; ++e) {
        to[e * Q + j] = from[j * a.P + e];
      }
    }
    a.transposed = to;
  }
  int64_t scratch_bytes() const { return value_tokens::scratch_size(a) * compute_size(a.type); }
  int64_t grain() const { return 1 + 65536 / (a.E * std::min(a.V, a.half < 0 ? a.V : 2 * a.half + 1) + 4 * a.V); }
};

void check_done(bool ok) { STD_TORCH_CHECK(ok, "value_tokens: out of memory"); }

void set_g(Args& a, const Tensor& g, const Tensor& table, int dims) {
  STD_TORCH_CHECK(
      g.scalar_type() == table.scalar_type() && g.dim() == dims && g.size(0) == a.R && (dims == 1 || g.size(1) == a.E),
      "g: expected the shape and dtype of the result");
  a.g = g.const_data_ptr();
}

Tensor mixup(const Tensor& logits, const Tensor& embedding, int64_t window, int64_t first) {
  Call c(logits, embedding, 2, window);
  c.a.first = first;
  auto made = torch::stable::new_empty(embedding, {c.a.R, c.a.E});
  c.a.out = made.mutable_data_ptr();
  auto* f = ORD_DISPATCH(embedding_mixup);
  check_done(parallel_with_scratch(c.a.R, c.grain(), c.scratch_bytes(),
                                   [&](int64_t b, int64_t e, void* scratch) { f(c.a, b, e, scratch); }));
  return made;
}

Tensor value(const Tensor& logits, const Tensor& values, int64_t window) {
  Call c(logits, values, 1, window);
  auto made = torch::stable::new_empty(values, {c.a.R});
  c.a.out = made.mutable_data_ptr();
  auto* f = ORD_DISPATCH(windowed_value);
  check_done(parallel_with_scratch(c.a.R, c.grain(), c.scratch_bytes(),
                                   [&](int64_t b, int64_t e, void* scratch) { f(c.a, b, e, scratch); }));
  return made;
}

// Rows in blocks that depend on the sizes alone, so that the table's gradient does not on the threads: f(begin, end,
// scratch, part, sums). At most 8 blocks of [V, P] sums, more where they are small. The gradient goes to `to`.
template <class F>
void in_blocks(const Call& c, int64_t size, Tensor& to, const F& f) {
  const Args& a = c.a;
  const int64_t most = std::clamp<int64_t>(131072 / size, 8, 64),
                count = std::max<int64_t>(1, std::min(most, (a.R + 1023) / 1024));
  const int64_t rows = (a.R + count - 1) / count;
  std::vector<double> sums(count * size);
  std::vector<double> parts(count * size * compute_size(a.type) / 8 + count);
  check_done(parallel_with_scratch(count, 1, c.scratch_bytes(), [&](int64_t first, int64_t last, void* scratch) {
    for (int64_t i = first; i < last; ++i) {
      f(std::min(a.R, i * rows), std::min(a.R, (i + 1) * rows), scratch,
        (char*)parts.data() + i * size * compute_size(a.type), &sums[i * size]);
    }
  }));
  for (int64_t i = 1; i < count; ++i) {
    for (int64_t k = 0; k < size; ++k) {
      sums[k] += sums[i * size + k];
    }
  }
  const bool flat = to.dim() == 1;
  auto wide = torch::stable::new_empty(to, flat ? std::vector<int64_t>{a.P} : std::vector<int64_t>{a.V, a.P},
                                       ScalarType::Double);
  std::copy(sums.begin(), sums.begin() + size, out<double>(wide));
  torch::stable::copy_(to, torch::stable::narrow(wide, flat ? 0 : 1, 0, flat ? a.V : a.E));
}

struct Gradients {
  Tensor logits, table;
  Gradients(Call& c, const Tensor& table_, int64_t wanted)
      : logits(wanted & 1 ? torch::stable::new_empty(c.logits, {c.a.R, c.a.V})
                          : torch::stable::new_empty(c.logits, {0})),
        table(!(wanted & 2)       ? torch::stable::new_empty(table_, {0})
              : table_.dim() == 1 ? torch::stable::new_empty(table_, {c.a.V})
                                  : torch::stable::new_empty(table_, {c.a.V, c.a.E})) {
    if (wanted & 1) {
      c.a.g_logits = logits.mutable_data_ptr();
    }
  }
  std::tuple<Tensor, Tensor> zeros() { return {torch::stable::fill_(logits, 0), torch::stable::fill_(table, 0)}; }
};

std::tuple<Tensor, Tensor> mixup_backward(const Tensor& logits, const Tensor& embedding, const OptionalTensor& g_,
                                          int64_t window, int64_t first, int64_t wanted) {
  Call c(logits, embedding, 2, window);
  c.a.first = first;
  Gradients to(c, embedding, wanted);
  if (!g_) {
    return to.zeros();
  }
  const Tensor g = as_contiguous(*g_);
  set_g(c.a, g, embedding, 2);
  if (c.a.half < 0 && wanted & 1) {
    c.a.type == DType::f64 ? c.transpose<double>() : c.transpose<float>();
  }
  auto* f = ORD_DISPATCH(embedding_mixup_backward);
  if (wanted & 2) {
    in_blocks(c, c.a.V * c.a.P, to.table, [&](int64_t b, int64_t e, void* scratch, void* part, double* sums) {
      f(c.a, b, e, scratch, part, sums);
    });
  } else if (wanted & 1) {
    check_done(parallel_with_scratch(c.a.R, c.grain(), c.scratch_bytes(), [&](int64_t b, int64_t e, void* scratch) {
      f(c.a, b, e, scratch, nullptr, nullptr);
    }));
  }
  return {to.logits, to.table};
}

std::tuple<Tensor, Tensor> value_backward(const Tensor& logits, const Tensor& values, const OptionalTensor& g_,
                                          int64_t window, int64_t wanted) {
  Call c(logits, values, 1, window);
  Gradients to(c, values, wanted);
  if (!g_) {
    return to.zeros();
  }
  const Tensor g = as_contiguous(*g_);
  set_g(c.a, g, values, 1);
  auto* f = ORD_DISPATCH(windowed_value_backward);
  if (wanted & 2) {
    in_blocks(c, c.a.P, to.table,
              [&](int64_t b, int64_t e, void* scratch, void*, double* sums) { f(c.a, b, e, scratch, sums); });
  } else if (wanted & 1) {
    check_done(parallel_with_scratch(c.a.R, c.grain(), c.scratch_bytes(),
                                     [&](int64_t b, int64_t e, void* scratch) { f(c.a, b, e, scratch, nullptr); }));
  }
  return {to.logits, to.table};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("embedding_mixup", TORCH_BOX(&mixup));
  m.impl("_embedding_mixup", TORCH_BOX(&mixup));
  m.impl("embedding_mixup_backward", TORCH_BOX(&mixup_backward));
  m.impl("_embedding_mixup_backward", TORCH_BOX(&mixup_backward));
  m.impl("windowed_value", TORCH_BOX(&value));
  m.impl("_windowed_value", TORCH_BOX(&value));
  m.impl("windowed_value_backward", TORCH_BOX(&value_backward));
  m.impl("_windowed_value_backward", TORCH_BOX(&value_backward));
}
