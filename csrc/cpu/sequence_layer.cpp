// sequence_layer, a Transformer layer on packed sequences: check, cut into tiles of whole sequences, pack the weights.
#include <array>
#include <cstring>
#include <utility>

#include "cpu/checks.h"
#include "cpu/dropout.h"
#include "cpu/ops/sequence_layer_args.h"
#include "cpu/scratch.h"

ORD_DECLARE_KERNEL(sequence_layer_pack, const SequenceLayerArgs&);
ORD_DECLARE_KERNEL(sequence_layer_forward, const SequenceLayerArgs&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(sequence_layer_backward, const SequenceLayerArgs&, int64_t begin, int64_t end, void* scratch);
ORD_DECLARE_KERNEL(sequence_layer_reduce, const SequenceLayerArgs&);

namespace {

// Tiles of a chunk at least, chunks at most, and elements that the gradients of all chunks may take.
constexpr int64_t kChunkTiles = 2, kChunks = 16, kPartials = INT64_C(1) << 21;
constexpr const char* kWeightNames[] = {
    "norm1_weight", "norm1_bias",     "qkv_weight",   "qkv_bias",       "out_weight",   "out_bias",     "norm2_weight",
    "norm2_bias",   "linear1_weight", "linear1_bias", "linear2_weight", "linear2_bias", "norm3_weight", "norm3_bias"};

using Weights = std::array<OptionalTensor, kSequenceWeights>;

struct Settings {
  int64_t heads, activation;
  bool pre_norm, causal;
  double eps, dropout;
  int64_t step;
};

// The tensors of a call as they come, or checked and in the compute type: kept for as long as their pointers are used.
struct SequenceCall {
  Tensor x;
  OptionalTensor memory;
  Weights weights;
  Tensor offsets;
  OptionalTensor row_ids;
  ScalarType storage{}, compute{};
  std::vector<int64_t> tiles{0};
  SequenceLayerArgs a{};

  Tensor in_compute_type(const Tensor& t) const {
    return as_contiguous(storage == compute ? t : torch::stable::to(t, compute));
  }
  Tensor made(Sizes sizes) const { return empty_contiguous(x, sizes, compute); }
  Tensor stored(const Tensor& t) const { return storage == compute ? t : torch::stable::to(t, storage); }
  int64_t bytes(int64_t elements) const { return elements * (a.is_double ? 8 : 4); }

  void set_sizes(const Settings& set) {
    storage = x.scalar_type();
    dtype_of("x", x);
    compute = compute_type(x);
    a.is_double = compute == ScalarType::Double;
    STD_TORCH_CHECK(x.dim() == 2 && x.size(1) > 0, "x: expected [N, W] with W of at least 1, got ", shape_text(x));
    a.N = x.size(0);
    a.W = x.size(1);
    const Tensor& first = *weights[kLinear1Weight];
    STD_TORCH_CHECK(first.dim() == 2 && first.size(0) > 0, "linear1_weight: expected [F, W], got ", shape_text(first));
    a.F = first.size(0);
    a.heads = set.heads;
    STD_TORCH_CHECK(set.heads > 0 && a.W % set.heads == 0, "heads: expected a divisor of W = ", a.W, ", got ",
                    set.heads);
    STD_TORCH_CHECK(set.activation >= 0 && set.activation < 3, "activation: expected 0, 1 or 2, got ", set.activation);
    a.activation = static_cast<Activation>(set.activation);
    a.pre_norm = set.pre_norm;
    a.causal = set.causal;
    a.eps = set.eps;
    x = in_compute_type(x);
    a.x = x.const_data_ptr();
  }

  // Offsets, and tiles of whole sequences.
  void set_sequences() {
    check_dtype("offsets", offsets, ScalarType::Long);
    STD_TORCH_CHECK(offsets.dim() == 1 && offsets.size(0) > 0, "offsets: expected [S + 1], got ", shape_text(offsets));
    offsets = as_contiguous(offsets);
    a.offsets = in<int64_t>(offsets);
    a.S = offsets.size(0) - 1;
    STD_TORCH_CHECK(a.offsets[0] == 0 && a.offsets[a.S] <= a.N,
                    "offsets: expected to rise from 0 to at most N = ", a.N);
    const int64_t fit = sequence_layer_tile(a.W, a.F);
    for (int64_t s = 0; s < a.S; ++s) {
      const int64_t length = a.offsets[s + 1] - a.offsets[s];
      STD_TORCH_CHECK(length >= 0, "offsets: expected to rise from 0 to at most N = ", a.N);
      a.longest = std::max(a.longest, length);
      if (s > tiles.back() && a.offsets[s + 1] - a.offsets[tiles.back()] > fit) {
        tiles.push_back(s);
      }
    }
    tiles.push_back(a.S);
    a.tile_count = static_cast<int64_t>(tiles.size()) - 1;
    a.tile_rows = round_to_lanes(std::max(fit, a.longest));
  }

  void set_weights() {
    if (memory) {
      check_dtype("memory", *memory, storage);
      check_shape("memory", *memory, {a.S, a.W});
      memory = in_compute_type(*memory);
      a.memory = memory->const_data_ptr();
    }
    for (int i = 0; i < kSequenceWeights; ++i) {
      const bool needed = i < kNorm3Weight || (memory && !a.pre_norm);
      STD_TORCH_CHECK(needed == weights[i].has_value(), kWeightNames[i], ": expected ", needed ? "a tensor" : "none");
      if (needed) {
        Tensor& t = *weights[i];
        check_dtype(kWeightNames[i], t, storage);
        switch (i) {
          case kQkvWeight: check_shape(kWeightNames[i], t, {3 * a.W, a.W}); break;
          case kOutWeight: check_shape(kWeightNames[i], t, {a.W, a.W}); break;
          case kLinear1Weight: check_shape(kWeightNames[i], t, {a.F, a.W}); break;
          case kLinear2Weight: check_shape(kWeightNames[i], t, {a.W, a.F}); break;
          default: check_shape(kWeightNames[i], t, {i < kNorm3Weight ? a.size(i) : a.W});
        }
        t = in_compute_type(t);
        a.weights[i] = t.const_data_ptr();
      }
    }
  }

  int64_t tokens() const { return a.offsets[a.S]; }
  // Rows of [N, W] that belong to no sequence.
  void clear_others(void* rows) const {
    if (rows) {
      memset(static_cast<char*>(rows) + bytes(tokens() * a.W), 0, bytes((a.N - tokens()) * a.W));
    }
  }

  // Tiles worth starting a thread for: some 100 us of work.
  int64_t grain() const { return (int64_t{1} << 22) / (sequence_layer_tile(a.W, a.F) * a.W * (4 * a.W + 2 * a.F)) + 1; }
};

SequenceCall call_of(const Tensor& x, const OptionalTensor& memory, Weights weights, const Tensor& offsets,
                     const OptionalTensor& seed, const OptionalTensor& row_ids, const Settings& set) {
  SequenceCall c{x, memory, std::move(weights), offsets, row_ids};
  c.set_sizes(set);
  c.set_sequences();
  c.set_weights();
  c.a.dropout = dropout_of(seed, c.row_ids, c.a.S, set.dropout, set.step);
  return c;
}

using Saved = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Saved run_forward(SequenceCall c, bool save) {
  SequenceLayerArgs& a = c.a;
  a.tiles = c.tiles.data();
  Tensor y = c.made({a.N, a.W}), qkv = c.made({save ? a.N : 0, 3 * a.W}), z1 = c.made({save ? a.N : 0, a.W}),
         h = c.made({save ? a.N : 0, a.F}), z3 = c.made({save && !a.pre_norm ? a.N : 0, a.W});
  c.clear_others(y.mutable_data_ptr());
  if (c.tokens() > 0) {
    Tensor packed = c.made({sequence_layer_packed(a)});
    a.packed = packed.mutable_data_ptr();
    a.y = y.mutable_data_ptr();
    if (save) {
      a.qkv = qkv.mutable_data_ptr();
      a.z1 = z1.mutable_data_ptr();
      a.h = h.mutable_data_ptr();
      a.z3 = a.pre_norm ? nullptr : z3.mutable_data_ptr();
    }
    ORD_DISPATCH(sequence_layer_pack)(a);
    const auto kernel = ORD_DISPATCH(sequence_layer_forward);
    const bool ok =
        parallel_with_scratch(a.tile_count, c.grain(), c.bytes(sequence_layer_scratch(a)),
                              [&](int64_t begin, int64_t end, void* scratch) { kernel(a, begin, end, scratch); });
    STD_TORCH_CHECK(ok, "sequence_layer: out of memory");
  }
  return {c.stored(y), qkv, z1, h, z3};
}

// The gradient of tensor `bit`, if the mask asks for it: where it goes.
Tensor gradient_like(const SequenceCall& c, int64_t grad_mask, int bit, const OptionalTensor& like, void*& to) {
  const bool asked = like && (grad_mask >> bit & 1);
  Tensor t = asked ? c.made(like->sizes()) : c.made({0});
  to = asked ? t.mutable_data_ptr() : nullptr;
  return t;
}

std::vector<Tensor> run_backward(SequenceCall c, const Tensor& qkv, const Tensor& z1, const Tensor& h, const Tensor& z3,
                                 const Tensor& g_, int64_t grad_mask) {
  SequenceLayerArgs& a = c.a;
  a.tiles = c.tiles.data();
  check_dtype("g", g_, c.storage);
  check_shape("g", g_, {a.N, a.W});
  const Tensor g = c.in_compute_type(g_),
               saved[] = {checked_contiguous("qkv", qkv, c.compute, {a.N, 3 * a.W}),
                          checked_contiguous("z1", z1, c.compute, {a.N, a.W}),
                          checked_contiguous("h", h, c.compute, {a.N, a.F}),
                          checked_contiguous("z3", z3, c.compute, {a.pre_norm ? 0 : a.N, a.W})};
  void** const places[] = {&a.qkv, &a.z1, &a.h, &a.z3};
  for (int i = 0; i < 4; ++i) {
    *places[i] = const_cast<void*>(saved[i].const_data_ptr());
  }
  a.g = g.const_data_ptr();
  std::vector<Tensor> out{gradient_like(c, grad_mask, 0, c.x, a.dx),
                          gradient_like(c, grad_mask, 1, c.memory, a.dmemory)};
  for (int i = 0; i < kSequenceWeights; ++i) {
    out.push_back(gradient_like(c, grad_mask, 2 + i, c.weights[i], a.grads[i]));
  }
  c.clear_others(a.dx);
  if (c.tokens() > 0) {
    const int64_t size = a.first(kSequenceWeights), most = std::clamp<int64_t>(kPartials / size, 2, kChunks);
    a.chunk_tiles = std::max(kChunkTiles, (a.tile_count + most - 1) / most);
    a.chunks = (a.tile_count + a.chunk_tiles - 1) / a.chunk_tiles;
    Tensor partial = c.made({a.chunks, size});
    a.partial = partial.mutable_data_ptr();
    const auto kernel = ORD_DISPATCH(sequence_layer_backward);
    const bool ok =
        parallel_with_scratch(a.chunks, 1, c.bytes(sequence_layer_scratch(a)),
                              [&](int64_t begin, int64_t end, void* scratch) { kernel(a, begin, end, scratch); });
    STD_TORCH_CHECK(ok, "sequence_layer: out of memory");
    ORD_DISPATCH(sequence_layer_reduce)(a);
  } else {
    for (Tensor& t : out) {
      torch::stable::zero_(t);
    }
  }
  for (Tensor& t : out) {
    t = c.stored(t);
  }
  return out;
}

Saved forward(const Tensor& x, const OptionalTensor& memory, const Tensor& norm1_weight, const Tensor& norm1_bias,
              const Tensor& qkv_weight, const Tensor& qkv_bias, const Tensor& out_weight, const Tensor& out_bias,
              const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& linear1_weight,
              const Tensor& linear1_bias, const Tensor& linear2_weight, const Tensor& linear2_bias,
              const OptionalTensor& norm3_weight, const OptionalTensor& norm3_bias, const Tensor& offsets,
              const OptionalTensor& seed, const OptionalTensor& row_ids, int64_t heads, int64_t activation,
              bool pre_norm, bool causal, double eps, double dropout, int64_t step, int64_t grad_mask) {
  Weights weights{norm1_weight, norm1_bias,     qkv_weight,   qkv_bias,       out_weight,   out_bias,     norm2_weight,
                  norm2_bias,   linear1_weight, linear1_bias, linear2_weight, linear2_bias, norm3_weight, norm3_bias};
  return run_forward(call_of(x, memory, std::move(weights), offsets, seed, row_ids,
                             {heads, activation, pre_norm, causal, eps, dropout, step}),
                     grad_mask != 0);
}

template <size_t... I>
auto as_tuple(const std::vector<Tensor>& t, std::index_sequence<I...>) {
  return std::tuple{t[I]...};
}

auto backward(const Tensor& x, const OptionalTensor& memory, const Tensor& norm1_weight, const Tensor& norm1_bias,
              const Tensor& qkv_weight, const Tensor& qkv_bias, const Tensor& out_weight, const Tensor& out_bias,
              const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& linear1_weight,
              const Tensor& linear1_bias, const Tensor& linear2_weight, const Tensor& linear2_bias,
              const OptionalTensor& norm3_weight, const OptionalTensor& norm3_bias, const Tensor& offsets,
              const OptionalTensor& seed, const OptionalTensor& row_ids, const Tensor& qkv, const Tensor& z1,
              const Tensor& h, const Tensor& z3, const Tensor& g, int64_t heads, int64_t activation, bool pre_norm,
              bool causal, double eps, double dropout, int64_t step, int64_t grad_mask) {
  Weights weights{norm1_weight, norm1_bias,     qkv_weight,   qkv_bias,       out_weight,   out_bias,     norm2_weight,
                  norm2_bias,   linear1_weight, linear1_bias, linear2_weight, linear2_bias, norm3_weight, norm3_bias};
  return as_tuple(run_backward(call_of(x, memory, std::move(weights), offsets, seed, row_ids,
                                       {heads, activation, pre_norm, causal, eps, dropout, step}),
                               qkv, z1, h, z3, g, grad_mask),
                  std::make_index_sequence<2 + kSequenceWeights>{});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ordkernels, CPU, m) {
  m.impl("sequence_layer", TORCH_BOX(&forward));
  m.impl("_sequence_layer", TORCH_BOX(&forward));
  m.impl("sequence_layer_backward", TORCH_BOX(&backward));
  m.impl("_sequence_layer_backward", TORCH_BOX(&backward));
}
