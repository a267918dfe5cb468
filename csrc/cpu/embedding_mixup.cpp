// embedding_mixup, forward and backward: check, allocate, share out the rows.
#include "cpu/token_checks.h"

// scratch: scratch_size elements of the compute type.
ORD_DECLARE_KERNEL(embedding_mixup, const tokens::TokenArgs&, int64_t begin, int64_t end, void* scratch);
// part, sums: [V, P] or null, of the table's gradient. The rows' share is added to sums; part is zero before and after.
ORD_DECLARE_KERNEL(embedding_mixup_backward, const tokens::TokenArgs&, int64_t begin, int64_t end, void* scratch,
                   void* part, double* sums);

namespace {

using tokens::Call;

Tensor embedding_mixup(const Tensor& logits, const Tensor& embedding, int64_t window, int64_t first) {
  Call c(logits, "embedding", embedding, 2, window);
  c.a.first = first;
  Tensor mixed = empty_contiguous(embedding, {c.a.R, c.a.E});
  c.a.out = mixed.mutable_data_ptr();
  auto* const f = ORD_DISPATCH(embedding_mixup);
  c.for_rows([&](int64_t begin, int64_t end, void* scratch) { f(c.a, begin, end, scratch); });
  return mixed;
}

// The embedding as [E, padded V].
template <class T>
std::vector<T> transposed(const Call& c) {
  const int64_t Q = tokens::padded(c.a.V);
  std::vector<T> to(c.a.E * Q);
  const T* const from = in<T>(c.table);
  for (int64_t j = 0; j < c.a.V; ++j) {
    for (int64_t e = 0; e < c.a.E; ++e) {
      to[e * Q + j] = from[j * c.a.P + e];
    }
  }
  return to;
}

template <class T>
void backward(Call& c, tokens::Gradients& to, int64_t grad_mask) {
  std::vector<T> columns;
  if (c.a.half < 0 && grad_mask & 1) {
    columns = transposed<T>(c);
    c.a.transposed = columns.data();
  }
  auto* const f = ORD_DISPATCH(embedding_mixup_backward);
  if (grad_mask & 2) {
    c.table_gradient(to.table, [&](int64_t begin, int64_t end, void* scratch, void* part, double* sums) {
      f(c.a, begin, end, scratch, part, sums);
    });
  } else if (grad_mask & 1) {
    c.for_rows([&](int64_t begin, int64_t end, void* scratch) { f(c.a, begin, end, scratch, nullptr, nullptr); });
  }
}

std::tuple<Tensor, Tensor> embedding_mixup_backward(const Tensor& logits, const Tensor& embedding,
                                                    const OptionalTensor& g_, int64_t window, int64_t first,
                                                    int64_t grad_mask) {
  Call c(logits, "embedding", embedding, 2, window);
  c.a.first = first;
  tokens::Gradients to(c, embedding, grad_mask);
  if (!g_) {
    return to.zeros();
  }
  const Tensor g = checked_contiguous("g", *g_, embedding.scalar_type(), {c.a.R, c.a.E});
  c.a.g = g.const_data_ptr();
  c.a.type == DType::f64 ? backward<double>(c, to, grad_mask) : backward<float>(c, to, grad_mask);
  return {to.logits, to.table};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("embedding_mixup", TORCH_BOX(&embedding_mixup));
  m.impl("_embedding_mixup", TORCH_BOX(&embedding_mixup));
  m.impl("embedding_mixup_backward", TORCH_BOX(&embedding_mixup_backward));
  m.impl("_embedding_mixup_backward", TORCH_BOX(&embedding_mixup_backward));
}
