// What the torch side of embedding_mixup and windowed_value checks, allocates and shares out.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/checks.h"
#include "cpu/scratch.h"
#include "cpu/token_args.h"

namespace tokens {

// A tensor [V, P] or [P] like `table` [V, E] or [V], in another type.
inline Tensor empty_padded(const TokenArgs& a, const Tensor& table, ScalarType type) {
  return empty_contiguous(table, table.dim() == 1 ? std::vector<int64_t>{a.P} : std::vector<int64_t>{a.V, a.P}, type);
}
inline Tensor without_padding(Tensor& padded, const Tensor& table) {
  const int64_t dim = table.dim() - 1;
  return torch::stable::narrow(padded, dim, 0, table.size(dim));
}

// One call's checked arguments: logits [R, V] and a table [V, E], or [V] for E = 1; window < 0: the whole vocabulary.
struct Call {
  TokenArgs a{};
  const Tensor logits;
  Tensor table;  // [V, P] or [P] in the compute type, zero-padded

  Call(const Tensor& logits_, const char* table_name, const Tensor& table_, int64_t table_dims, int64_t window)
      : logits(as_contiguous(logits_)) {
    a.type = dtype_of("logits", logits);
    STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "logits: expected [R, V] with V at least 1, got ",
                    shape_text(logits));
    a.R = logits.size(0);
    a.V = logits.size(1);
    STD_TORCH_CHECK(a.V < (INT64_C(1) << 30), "logits: expected V below 2^30, got ", a.V);
    STD_TORCH_CHECK(table_.dim() == table_dims && table_.size(0) == a.V && table_.size(-1) > 0, table_name,
                    table_dims == 2 ? ": expected [V, E]" : ": expected [V]", " with V = ", a.V, ", got ",
                    shape_text(table_));
    const bool same_type = table_.scalar_type() == logits.scalar_type();
    STD_TORCH_CHECK(same_type || table_.scalar_type() == compute_type(a.type), table_name, ": expected ",
                    dtype_text(logits.scalar_type()), " or ", dtype_text(compute_type(a.type)), ", got ",
                    dtype_text(table_.scalar_type()));
    a.value_type = dtype_of(table_name, table_);
    a.E = table_dims == 2 ? table_.size(1) : 1;
    a.P = padded(table_.size(-1));
    a.half = window < 0 ? -1 : window / 2;
    a.block = std::clamp<int64_t>(131072 / (2 * padded(a.V) + a.P) / kStripRows * kStripRows, kStripRows, kBlockRows);
    table = empty_padded(a, table_, compute_type(a.type));
    torch::stable::fill_(table, 0);
    Tensor inner = without_padding(table, table_);
    torch::stable::copy_(inner, table_);
    a.logits = logits.const_data_ptr();
    a.table = table.const_data_ptr();
  }

  int64_t scratch_bytes() const { return scratch_size(a) * compute_size(a.type); }
  int64_t grain() const { return 1 + 65536 / (a.E * std::min(a.V, a.half < 0 ? a.V : 2 * a.half + 1) + 4 * a.V); }

  void check_done(bool done) const {
    STD_TORCH_CHECK(done, "no memory for ", scratch_bytes(), " bytes of scratch per thread");
  }
  // f(begin, end, scratch) over all rows.
  template <class F>
  void for_rows(const F& f) const {
    check_done(parallel_with_scratch(a.R, grain(), scratch_bytes(), f));
  }

  // The table's gradient, of f(begin, end, scratch, part, sums) over blocks of rows, where part (in the compute type)
  // and sums [V, P] or [P] are zero before. Blocks depend on the sizes alone, so that the gradient does not on the
  // threads: at most 8, more where the sums are small.
  template <class F>
  void table_gradient(Tensor& to, const F& f) const {
    const int64_t size = table.dim() == 1 ? a.P : a.V * a.P, bytes = size * compute_size(a.type);
    const int64_t most = std::clamp<int64_t>(131072 / size, 8, 64),
                  blocks = std::max<int64_t>(1, std::min(most, (a.R + 1023) / 1024)),
                  rows = (a.R + blocks - 1) / blocks;
    std::vector<double> sums(blocks * size), parts(blocks * bytes / 8 + blocks);
    check_done(parallel_with_scratch(blocks, 1, scratch_bytes(), [&](int64_t first, int64_t last, void* scratch) {
      for (int64_t i = first; i < last; ++i) {
        f(std::min(a.R, i * rows), std::min(a.R, (i + 1) * rows), scratch,
          reinterpret_cast<char*>(parts.data()) + i * bytes, &sums[i * size]);
      }
    }));
    for (int64_t i = 1; i < blocks; ++i) {
      for (int64_t k = 0; k < size; ++k) {
        sums[k] += sums[i * size + k];
      }
    }
    Tensor total = empty_padded(a, to, ScalarType::Double);
    std::copy(sums.begin(), sums.begin() + size, out<double>(total));
    torch::stable::copy_(to, without_padding(total, to));
  }
};

// The gradients that a backward call returns, empty where not wanted. grad_mask: 1 logits, 2 the table.
struct Gradients {
  Tensor logits, table;

  Gradients(Call& c, const Tensor& table_, int64_t grad_mask)
      : logits(empty_contiguous(c.logits, grad_mask & 1 ? shape_of(c.logits) : std::vector<int64_t>{0})),
        table(empty_contiguous(table_, grad_mask & 2 ? shape_of(table_) : std::vector<int64_t>{0})) {
    c.a.g_logits = grad_mask & 1 ? logits.mutable_data_ptr() : nullptr;
  }
  std::tuple<Tensor, Tensor> zeros() { return {torch::stable::fill_(logits, 0), torch::stable::fill_(table, 0)}; }
};

}  // namespace tokens
