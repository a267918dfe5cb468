// mlp, networks of one hidden layer in one call: check, pack the weights once, share out rows or chunks of rows.
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/checks.h"
#include "cpu/dropout.h"
#include "cpu/ops/mlp_op_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(mlp_op_pack, const MlpOpArgs&, bool backward);
ORD_DECLARE_KERNEL(mlp_op_forward, const MlpOpArgs&, int64_t begin, int64_t end, void* scratch);
// Chunks [begin, end), then the sums over all of them.
ORD_DECLARE_KERNEL(mlp_op_backward, const MlpOpArgs&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(mlp_op_reduce, const MlpOpArgs&);

namespace {

// Rows of a chunk at least, chunks at most, and elements that the gradients of all chunks may take.
constexpr int64_t kChunkRows = 3 * kMlpOpRows, kChunks = 16, kPartials = INT64_C(1) << 21;

// The tensors of a call as they come, or checked and in the compute type: kept for as long as their pointers are used.
struct MlpCall {
  Tensor x, w_in, w_out;
  OptionalTensor b_in, b_out, tables[2], indices[2], row_ids;
  ScalarType storage{}, compute{};
  MlpOpArgs a{};

  bool grouped() const { return w_in.dim() == 3; }

  // In the compute type.
  Tensor cast(const Tensor& t) const { return storage == compute ? t : torch::stable::to(t, compute); }

  // The same with the last two dimensions, or some of them, dense.
  static Tensor readable(const Tensor& t, bool either) {
    const int64_t n = t.dim();
    const bool ok = n && (t.stride(n - 1) == 1 || (either && t.stride(n - 2) == 1));
    return ok ? t : torch::stable::contiguous(t);
  }

  void set_sizes() {
    storage = x.scalar_type();
    dtype_of("x", x);
    compute = compute_type(x);
    a.is_double = compute == ScalarType::Double;
    STD_TORCH_CHECK(w_in.dim() == 2 || w_in.dim() == 3, "w_in: expected [H, D] or [G, H, D], got ", shape_text(w_in));
    const int64_t n = grouped();
    STD_TORCH_CHECK(x.dim() == 2 + n, "x: expected [R, D], or with networks [R, G, D], got ", shape_text(x));
    a.R = x.size(0);
    a.D = x.size(1 + n);
    a.G = n ? w_in.size(0) : 1;
    a.H = w_in.size(n);
    a.O = w_out.dim() == 2 + n ? w_out.size(n) : 0;
    STD_TORCH_CHECK(a.G > 0 && a.D > 0 && a.H > 0 && a.O > 0, "w_in, w_out: expected sizes of at least 1");
    STD_TORCH_CHECK(!n || x.size(1) == a.G || x.size(1) == 1, "x: expected [R, G, D] or [R, 1, D] with G = ", a.G,
                    ", got ", shape_text(x));
  }

  std::vector<int64_t> with_groups(std::initializer_list<int64_t> sizes) const {
    std::vector<int64_t> all(sizes);
    if (grouped()) {
      all.insert(all.begin(), a.G);
    }
    return all;
  }

  OptionalTensor bias(const char* name, const OptionalTensor& t, int64_t width) const {
    if (!t) {
      return t;
    }
    check_dtype(name, *t, storage);
    check_shape(name, *t, with_groups({width}));
    return as_contiguous(cast(*t));
  }

  void set_weights() {
    check_dtype("x", x, storage);
    check_dtype("w_in", w_in, storage);
    check_dtype("w_out", w_out, storage);
    check_shape("w_in", w_in, with_groups({a.H, a.D}));
    check_shape("w_out", w_out, with_groups({a.O, a.H}));
    x = readable(cast(x), false);
    w_in = readable(cast(w_in), true);
    w_out = readable(cast(w_out), true);
    b_in = bias("b_in", b_in, a.H);
    b_out = bias("b_out", b_out, a.O);
    const int64_t n = grouped();
    a.x = x.const_data_ptr();
    a.x_row = x.stride(0);
    a.x_group = n && x.size(1) > 1 ? x.stride(1) : 0;
    a.w_in = w_in.const_data_ptr();
    a.w_out = w_out.const_data_ptr();
    a.in_group = n ? w_in.stride(0) : 0;
    a.in_h = w_in.stride(n);
    a.in_d = w_in.stride(n + 1);
    a.out_group = n ? w_out.stride(0) : 0;
    a.out_o = w_out.stride(n);
    a.out_h = w_out.stride(n + 1);
    a.b_in = data_or_null(b_in);
    a.b_out = data_or_null(b_out);
  }

  void set_table(int t, const char* name, const char* index_name) {
    if (!tables[t]) {
      return;
    }
    STD_TORCH_CHECK(!grouped(), name, ": expected none with several networks");
    Tensor& rows = *tables[t];
    STD_TORCH_CHECK(rows.dim() == 2 && rows.size(1) == a.H, name, ": expected [T, H] with H = ", a.H, ", got ",
                    shape_text(rows));
    check_dtype(name, rows, storage);
    rows = as_contiguous(cast(rows));
    MlpTable& table = a.tables[t];
    table.rows = rows.const_data_ptr();
    table.T = rows.size(0);
    indices[t] = checked_contiguous(index_name, indices[t], ScalarType::Long, {a.R});
    if (!indices[t]) {
      STD_TORCH_CHECK(table.T == 1 || table.T == a.R, name, ": expected 1 or R = ", a.R, " rows, got ", table.T);
      return;
    }
    table.index = in<int64_t>(*indices[t]);
    for (int64_t r = 0; r < a.R; ++r) {
      const int64_t i = table.index[r];
      STD_TORCH_CHECK(i >= 0 && i < table.T, index_name, ": expected 0 to ", table.T - 1, ", got ", i);
    }
  }

  int64_t bytes(int64_t elements) const { return elements * (a.is_double ? 8 : 4); }

  // A tensor of the compute type.
  Tensor made(Sizes sizes) const { return empty_contiguous(x, sizes, compute); }
  Tensor stored(const Tensor& t) const { return storage == compute ? t : torch::stable::to(t, storage); }
};

// Memory of a call besides its outputs: behind the calling thread's own scratch, which is there already at the next
// call, or, where it is large, a tensor.
struct Workspace {
  static constexpr int64_t kLargest = INT64_C(8) << 20;  // bytes
  std::optional<Tensor> large;
  std::vector<void*> parts;

  Workspace(const MlpCall& c, int64_t scratch, std::initializer_list<int64_t> elements) {
    const auto rounded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
    int64_t all = rounded(scratch);
    for (const int64_t n : elements) {
      all += rounded(c.bytes(n));
    }
    char* p;
    if (all <= kLargest) {
      p = static_cast<char*>(thread_scratch(all));
      STD_TORCH_CHECK(p, "mlp: out of memory");
      p += rounded(scratch);
    } else {
      large = c.made({all / c.bytes(1)});
      p = static_cast<char*>(large->mutable_data_ptr());
    }
    for (const int64_t n : elements) {
      parts.push_back(p);
      p += rounded(c.bytes(n));
    }
  }
};

MlpCall call_of(const Tensor& x, const Tensor& w_in, const OptionalTensor& b_in, const OptionalTensor& cond,
                const OptionalTensor& time, const Tensor& w_out, const OptionalTensor& b_out,
                const OptionalTensor& cond_index, const OptionalTensor& time_index, const OptionalTensor& seed,
                const OptionalTensor& row_ids, double dropout) {
  MlpCall c{x, w_in, w_out, b_in, b_out, {cond, time}, {cond_index, time_index}, row_ids};
  c.set_sizes();
  c.set_weights();
  c.set_table(0, "cond", "cond_index");
  c.set_table(1, "time", "time_index");
  c.a.dropout = dropout_of(seed, c.row_ids, c.a.R, dropout, 0);
  return c;
}

std::vector<int64_t> output_shape(const MlpCall& c) {
  return c.grouped() ? std::vector{c.a.R, c.a.G, c.a.O} : std::vector{c.a.R, c.a.O};
}

Tensor forward(const Tensor& x, const Tensor& w_in, const OptionalTensor& b_in, const OptionalTensor& cond,
               const OptionalTensor& time, const Tensor& w_out, const OptionalTensor& b_out,
               const OptionalTensor& cond_index, const OptionalTensor& time_index, const OptionalTensor& seed,
               const OptionalTensor& row_ids, double dropout) {
  MlpCall c = call_of(x, w_in, b_in, cond, time, w_out, b_out, cond_index, time_index, seed, row_ids, dropout);
  MlpOpArgs& a = c.a;
  Tensor y = c.made(output_shape(c));
  if (a.R == 0) {
    return c.stored(y);
  }
  const Workspace work(c, c.bytes(mlp_op_scratch(a)), {mlp_op_packed(a)});
  a.packed = work.parts[0];
  a.y = y.mutable_data_ptr();
  ORD_DISPATCH(mlp_op_pack)(a, false);
  const auto kernel = ORD_DISPATCH(mlp_op_forward);
  const int64_t grain = (int64_t{1} << 19) / (a.G * a.H * (a.D + a.O)) + 1;
  const bool ok =
      parallel_with_scratch(a.R, grain, c.bytes(mlp_op_scratch(a)),
                            [&](int64_t begin, int64_t end, void* scratch) { kernel(a, begin, end, scratch); });
  STD_TORCH_CHECK(ok, "mlp: out of memory");
  return c.stored(y);
}

// The sums that are the gradient of a table: for each chunk of rows a slot for each row of the table that it adds to.
// Where no two chunks add to the same row, the gradient's own rows are the slots.
struct Slots {
  std::vector<int64_t> slot, first, row;  // [R], [chunks + 1]: the first one of a chunk, [slots]: the row of the table
  bool direct;

  Slots(const MlpTable& table, const MlpOpArgs& a) : slot(a.R), first(a.chunks + 1), direct(a.H % kTileWidth == 0) {
    std::vector<int64_t> seen(table.T, -1), at(table.T);  // the last chunk that has a slot for a row, and that slot
    for (int64_t r = 0; r < a.R; ++r) {
      const int64_t chunk = r / a.chunk_rows, i = table.row(r);
      if (seen[i] != chunk) {
        direct &= seen[i] < 0;
        seen[i] = chunk;
        at[i] = first[chunk + 1]++;
        row.push_back(i);
      }
      slot[r] = at[i];
    }
    for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
      first[chunk + 1] += first[chunk];
    }
    if (direct) {
      std::fill(first.begin(), first.end(), 0);
      for (int64_t r = 0; r < a.R; ++r) {
        slot[r] = table.row(r);
      }
    }
  }
};

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The gradient of a tensor, if bit `bit` of the mask asks for it: where it goes.
struct Gradient {
  Tensor t;
  void* p;

  Gradient(const MlpCall& c, int64_t grad_mask, int bit, const OptionalTensor& like) {
    const bool asked = like && (grad_mask >> bit & 1);
    t = asked ? c.made(like->sizes()) : c.made({0});
    p = asked ? t.mutable_data_ptr() : nullptr;
  }
};

void run_backward(const MlpCall& c, MlpOpArgs& a) {
  const Workspace work(c, c.bytes(mlp_op_scratch(a)), {mlp_op_packed(a), a.chunks * mlp_op_partial(a)});
  a.packed = work.parts[0];
  a.partial = work.parts[1];
  std::optional<Slots> slots[2];
  Tensor sums[2] = {c.x, c.x};
  for (int t = 0; t < 2; ++t) {
    if (a.dtable[t]) {
      const Slots& s = slots[t].emplace(a.tables[t], a);
      if (s.direct) {
        std::memset(a.dtable[t], 0, c.bytes(a.tables[t].T * a.H));
        a.slots[t] = std::exchange(a.dtable[t], nullptr);
      } else {
        sums[t] = c.made({s.first.back(), tiles_of(a.H) * kTileWidth});
        a.slots[t] = sums[t].mutable_data_ptr();
      }
      a.slot[t] = s.slot.data();
      a.first_slot[t] = s.first.data();
      a.slot_row[t] = s.row.data();
    }
  }
  ORD_DISPATCH(mlp_op_pack)(a, true);
  const auto kernel = ORD_DISPATCH(mlp_op_backward);
  const bool ok =
      parallel_with_scratch(a.chunks, 1, c.bytes(mlp_op_scratch(a)),
                            [&](int64_t begin, int64_t end, void* scratch) { kernel(a, begin, end, scratch); });
  STD_TORCH_CHECK(ok, "mlp: out of memory");
  ORD_DISPATCH(mlp_op_reduce)(a);
}

Gradients backward(const Tensor& x, const Tensor& w_in, const OptionalTensor& b_in, const OptionalTensor& cond,
                   const OptionalTensor& time, const Tensor& w_out, const OptionalTensor& b_out,
                   const OptionalTensor& cond_index, const OptionalTensor& time_index, const OptionalTensor& seed,
                   const OptionalTensor& row_ids, const Tensor& g_, double dropout, int64_t grad_mask) {
  MlpCall c = call_of(x, w_in, b_in, cond, time, w_out, b_out, cond_index, time_index, seed, row_ids, dropout);
  MlpOpArgs& a = c.a;
  check_dtype("g", g_, c.storage);
  check_shape("g", g_, output_shape(c));
  const Tensor g = as_contiguous(c.cast(g_));
  a.g = g.const_data_ptr();
  Gradient dx(c, grad_mask, 0, c.x), dw_in(c, grad_mask, 1, c.w_in), db_in(c, grad_mask, 2, c.b_in),
      dcond(c, grad_mask, 3, c.tables[0]), dtime(c, grad_mask, 4, c.tables[1]), dw_out(c, grad_mask, 5, c.w_out),
      db_out(c, grad_mask, 6, c.b_out);
  a.dx = dx.p;
  a.dw_in = dw_in.p;
  a.db_in = db_in.p;
  a.dtable[0] = dcond.p;
  a.dtable[1] = dtime.p;
  a.dw_out = dw_out.p;
  a.db_out = db_out.p;
  const int64_t most = std::clamp<int64_t>(kPartials / mlp_op_partial(a), 2, kChunks);
  const int64_t rows = std::max(kChunkRows, (a.R + most - 1) / most);
  a.chunk_rows = (rows + kMlpOpRows - 1) / kMlpOpRows * kMlpOpRows;
  a.chunks = (a.R + a.chunk_rows - 1) / a.chunk_rows;
  if (a.R > 0) {
    run_backward(c, a);
  } else {
    for (Gradient* d : {&dx, &dw_in, &db_in, &dcond, &dtime, &dw_out, &db_out}) {
      torch::stable::fill_(d->t, 0.0);
    }
  }
  return {c.stored(dx.t),    c.stored(dw_in.t),  c.stored(db_in.t), c.stored(dcond.t),
          c.stored(dtime.t), c.stored(dw_out.t), c.stored(db_out.t)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("mlp", TORCH_BOX(&forward));
  m.impl("_mlp", TORCH_BOX(&forward));
  m.impl("mlp_backward", TORCH_BOX(&backward));
  m.impl("_mlp_backward", TORCH_BOX(&backward));
}
