// A Transformer layer on packed sequences, forward and backward, tiles of whole sequences that stay in the second
// cache. Kept for backward: queries, keys and values, the sum after the attention, the hidden layer before its
// activation (and after post-norm's last sum); all else is made again. Every sum runs in one order whatever the tokens
// around it, and the gradients of weights are summed by chunks of tiles that depend on the lengths alone, so no result
// depends on the number of threads.
#pragma once
#include "cpu/ops/lane_attention.h"
#include "cpu/ops/sequence_rows.h"
#include "cpu/simd/dropout.h"

namespace ORD_ISA {
namespace {

template <class T>
struct SequenceLayer {
  using V = typename Traits<T>::V;
  static constexpr int64_t kTogether = philox::kBlocks / kDropoutBlocks;  // rows whose bits are made in one go

  const SequenceLayerArgs& a;
  const int64_t D = a.W, F = a.F, hidden_row = sequence_hidden_row(a.F);
  // Matrices in panels, for the way forward; backward reads them as they are.
  T* const qkv_panels = (T*)a.packed;
  T* const out_panels = qkv_panels + round_to_lanes(3 * D) * D;
  T* const linear1_panels = out_panels + round_to_lanes(D) * D;
  T* const linear2_panels = linear1_panels + round_to_lanes(F) * D;

  struct Tile {
    int64_t first, last, token, n;  // sequences; the first token and how many
  };
  struct Scratch {
    T *u, *v, *x1, *z2, *x2, *f_in, *d, *e, *qkv, *hidden, *dh, *factors;  // [n, D], qkv [n, 3 D]
    T *moments[3], *attention;                                             // of the norms
  };
  // x1 = x after the attention, z2 and x2 after the memory, before and after its norm; what the feed-forward part
  // reads.
  struct Middle {
    const T *x1, *z2, *x2, *f_in;
  };

  const T* weight(int which) const { return (const T*)a.weights[which]; }
  RowNorm<T> norm(int which, const Scratch& s) const {
    T* const room = s.moments[which == kNorm1Weight ? 0 : which == kNorm2Weight ? 1 : 2];
    return {D, (T)a.eps, weight(which), weight(which + 1), room};
  }
  RowNorm<T> norm1(const Scratch& s) const { return norm(kNorm1Weight, s); }
  RowNorm<T> norm2(const Scratch& s) const { return norm(kNorm2Weight, s); }
  RowNorm<T> norm3(const Scratch& s) const { return norm(kNorm3Weight, s); }

  Tile tile(int64_t i) const {
    const int64_t first = a.tiles[i], last = a.tiles[i + 1];
    return {first, last, a.offsets[first], a.offsets[last] - a.offsets[first]};
  }
  Scratch scratch(T* p) const {
    const auto take = [&](int64_t columns) {
      T* const from = p;
      p += a.tile_rows * columns;
      return from;
    };
    return {take(D),
            take(D),
            take(D),
            take(D),
            take(D),
            take(D),
            take(D),
            take(D),
            take(3 * D),
            take(hidden_row),
            take(hidden_row),
            take(kDropoutWidth),
            {take(2), take(2), take(2)},
            p};
  }

  // one(attention, first token in the tile, tokens) or together(attention, sequences) for all sequences of a tile that
  // have any: together where that is faster, those of one length first.
  template <class One, class Together>
  inline __attribute__((always_inline)) void attention(const Tile& t, const Scratch& s, const One& one,
                                                       const Together& together) const {
    const Attention<T> apart{a.heads, D / a.heads, a.causal, a.longest, s.attention};
    const LaneAttention<T> lanes{a.heads, D / a.heads, a.causal, a.longest, s.attention};
    LaneSequences<T> waiting[kLongestInLanes + 1], rest;
    const auto run = [&](LaneSequences<T>& group) {
      if (lanes.pays(group)) {
        together(lanes, group);
      } else {
        for (int r = 0; r < group.n; ++r) {
          one(apart, group.first[r], group.length[r]);
        }
      }
      group = {};
    };
    const auto add = [&](LaneSequences<T>& group, int64_t at, int64_t L) {
      group.add(at, L);
      if (group.n == kLanes<T>) {
        run(group);
      }
    };
    for (int64_t q = t.first; q < t.last; ++q) {
      const int64_t at = a.offsets[q] - t.token, L = a.offsets[q + 1] - a.offsets[q];
      if (L == 1 || L > kLongestInLanes) {
        one(apart, at, L);
      } else if (L) {
        add(waiting[L], at, L);
      }
    }
    for (int64_t L = kLongestInLanes; L > 1; --L) {
      for (int r = 0; r < waiting[L].n; ++r) {
        add(rest, waiting[L].first[r], L);
      }
    }
    run(rest);
  }

  void pack() const {
    pack_panels(weight(kQkvWeight), 3 * D, D, qkv_panels);
    pack_panels(weight(kOutWeight), D, D, out_panels);
    pack_panels(weight(kLinear1Weight), F, D, linear1_panels);
    pack_panels(weight(kLinear2Weight), D, F, linear2_panels);
  }
  // to [n, N] = bias + x [n, K] w^T (+ add, if there is one).
  void linear(int64_t n, const T* x, int64_t row, int64_t K, const T* panels, int bias, int64_t N, T* to,
              const T* add = nullptr) const {
    const RowEnd end = add ? RowEnd::add : RowEnd::store;
    multiply_rows<T>(n, N, {x, row, 1, panels, 0, to, N, K, RowStart::bias, weight(bias), end, add});
  }
  // to [n, D] = add + drop(bias + x [n, K] w^T).
  void linear_dropped(const Tile& t, int site, const T* x, int64_t row, int64_t K, const T* panels, int bias,
                      const T* add, T* to, const Scratch& s) const {
    if (!a.dropout.threshold) {
      return linear(t.n, x, row, K, panels, bias, D, to, add);
    }
    linear(t.n, x, row, K, panels, bias, D, s.u);
    add_dropped(t, site, add, s.u, to, s);
  }

  // ---- dropout

  DropoutArgs dropout(int site) const {
    DropoutArgs d = a.dropout;
    d.step += site;
    return d;
  }
  uint64_t id_of(int64_t sequence) const {
    return (uint64_t)(a.dropout.row_ids ? a.dropout.row_ids[sequence] : sequence);
  }

  // Factors of 64 features of the tile's tokens -> [n, 64].
  __attribute__((noinline)) void token_factors(const Tile& t, int site, int64_t features, T* to) const {
    const uint64_t blocks = tiles_of(D) * kDropoutBlocks;
    int64_t sequence = t.first;
    dropout_factors_at(
        dropout(site),
        [&](int64_t i) __attribute__((always_inline)) {
          sequence = i == 0 ? t.first : sequence;
          while (t.token + i >= a.offsets[sequence + 1]) {
            ++sequence;
          }
          // the last rows are asked for twice where they do not fill a block
          while (t.token + i < a.offsets[sequence]) {
            --sequence;
          }
          return DropoutPlace{id_of(sequence), (uint64_t)(t.token + i - a.offsets[sequence]) * blocks};
        },
        t.n, features, to);
  }

  // drop(x), in room where anything is dropped.
  const T* dropped(const Tile& t, int site, const T* x, T* room, const Scratch& s) const {
    if (!a.dropout.threshold) {
      return x;
    }
    add_dropped(t, site, nullptr, x, room, s);
    return room;
  }
  // to = (add, if there is one) + drop(x).
  void add_dropped(const Tile& t, int site, const T* add, const T* x, T* to, const Scratch& s) const {
    for (int64_t i = 0; i < tiles_of(D); ++i) {
      token_factors(t, site, i, s.factors);
      add_scaled(t.n, tile_columns(D, i), add ? add + i * kTileWidth : nullptr, x + i * kTileWidth, s.factors,
                 to + i * kTileWidth);
    }
  }
  __attribute__((noinline)) void add_scaled(int64_t n, int64_t columns, const T* add, const T* x, const T* factors,
                                            T* to) const {
    for (int64_t r = 0; r < n; ++r) {
      for_each_vector<T>(columns, [&](int64_t d, int lanes) __attribute__((always_inline)) {
        const T *const p = x + r * D + d, *const q = add ? add + r * D + d : nullptr;
        const V start = q ? load(q, lanes, q + lanes) : V{};
        store(to + r * D + d, start + load(p, lanes, p + lanes) * load(factors + r * kDropoutWidth + d), lanes);
      });
    }
  }
  __attribute__((noinline)) static void add_all(const T* add, const T* x, int64_t n, T* to) {
    for_each_vector<T>(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      const V v = load(x + i, lanes, x + i + lanes);
      store(to + i, add ? v + load(add + i, lanes, add + i + lanes) : v, lanes);
    });
  }

  // f(sequence, first column, columns, factors [64]) for what the memory adds to each sequence, dropped as a whole.
  template <class Do>
  void with_memory_factors(const Tile& t, const Scratch& s, const Do& f) const {
    const DropoutArgs site = dropout(kMemorySite);
    for (int64_t q = t.first; q < t.last; q += kTogether) {
      const int64_t n = t.last - q < kTogether ? t.last - q : kTogether;
      for (int64_t i = 0; i < tiles_of(D); ++i) {
        if (site.threshold) {
          dropout_factors_at(
              site, [&](int64_t j) __attribute__((always_inline)) { return DropoutPlace{id_of(q + j), 0}; }, n, i,
              s.factors);
        }
        for (int64_t j = 0; j < n; ++j) {
          f(q + j, i * kTileWidth, tile_columns(D, i), site.threshold ? s.factors + j * kDropoutWidth : nullptr);
        }
      }
    }
  }
  // to = x + drop(memory of the sequence).
  void add_memory(const Tile& t, const T* x, T* to, const Scratch& s) const {
    with_memory_factors(t, s, [&](int64_t q, int64_t first, int64_t columns, const T* factors) {
      const T* const m = (const T*)a.memory + q * D + first;
      for_each_vector<T>(columns, [&](int64_t d, int lanes) __attribute__((always_inline)) {
        const V added = load(m + d, lanes, m + d + lanes) * (factors ? load(factors + d) : V{} + (T)1);
        for (int64_t r = a.offsets[q] - t.token; r < a.offsets[q + 1] - t.token; ++r) {
          const T* const p = x + r * D + first + d;
          store(to + r * D + first + d, load(p, lanes, p + lanes) + added, lanes);
        }
      });
    });
  }
  void memory_gradient(const Tile& t, const T* g, const Scratch& s) const {
    with_memory_factors(t, s, [&](int64_t q, int64_t first, int64_t columns, const T* factors) {
      T* const to = (T*)a.dmemory + q * D + first;
      for_each_vector<T>(columns, [&](int64_t d, int lanes) __attribute__((always_inline)) {
        V sum = {};
        for (int64_t r = a.offsets[q] - t.token; r < a.offsets[q + 1] - t.token; ++r) {
          const T* const p = g + r * D + first + d;
          sum += load(p, lanes, p + lanes);
        }
        store(to + d, sum * (factors ? load(factors + d) : V{} + (T)1), lanes);
      });
    });
  }

  // ---- forward

  Middle middle(const Tile& t, const T* z1, const Scratch& s) const {
    Middle m{z1, nullptr, nullptr, nullptr};
    if (!a.pre_norm) {
      norm1(s).forward(z1, t.n, s.x1);
      m.x1 = s.x1;
    }
    m.x2 = m.x1;
    if (a.memory) {
      add_memory(t, m.x1, s.z2, s);
      m.z2 = m.x2 = s.z2;
      if (!a.pre_norm) {
        norm3(s).forward(m.z2, t.n, s.x2);
        m.x2 = s.x2;
      }
    }
    m.f_in = m.x2;
    if (a.pre_norm) {
      norm2(s).forward(m.x2, t.n, s.f_in);
      m.f_in = s.f_in;
    }
    return m;
  }

  // Rows of the tile in a saved matrix of D columns, or in scratch where it is not kept.
  static T* kept(void* matrix, int64_t token, int64_t columns, T* otherwise) {
    return matrix ? (T*)matrix + token * columns : otherwise;
  }

  void forward(const Tile& t, const Scratch& s) const {
    const T* const x = (const T*)a.x + t.token * D;
    T *const qkv = kept(a.qkv, t.token, 3 * D, s.qkv), *const z1 = kept(a.z1, t.token, D, s.d);
    T *const h = kept(a.h, t.token, F, s.dh), *const y = (T*)a.y + t.token * D;
    if (a.pre_norm) {
      norm1(s).forward(x, t.n, s.u);
    }
    linear(t.n, a.pre_norm ? s.u : x, D, D, qkv_panels, kQkvBias, 3 * D, qkv);
    attention(
        t, s, [&](const Attention<T>& one, int64_t at, int64_t L) { one.forward(L, qkv + at * 3 * D, s.v + at * D); },
        [&](const LaneAttention<T>& lanes, const LaneSequences<T>& group) { lanes.forward(group, qkv, s.v); });
    linear_dropped(t, kAttentionSite, s.v, D, D, out_panels, kOutBias, x, z1, s);
    const Middle m = middle(t, z1, s);
    linear(t.n, m.f_in, D, D, linear1_panels, kLinear1Bias, F, h);
    with_activation(a.activation, [&]<Activation kind> { activate_rows<T, kind>(h, t.n, F, s.hidden, hidden_row); });
    T* const z3 = a.pre_norm ? y : kept(a.z3, t.token, D, s.e);
    linear_dropped(t, kFeedForwardSite, s.hidden, hidden_row, F, linear2_panels, kLinear2Bias, m.x2, z3, s);
    if (!a.pre_norm) {
      norm2(s).forward(z3, t.n, y);
    }
  }

  // ---- backward

  // Where a chunk adds up the gradient of a weight; null: not asked for.
  T* gradient(int64_t chunk, int which) const {
    return a.grads[which] ? (T*)a.partial + chunk * a.first(kSequenceWeights) + a.first(which) : nullptr;
  }
  void norm_backward(int64_t chunk, int which, const T* x, const T* g, int64_t n, const T* add, T* dx,
                     const Scratch& s) const {
    const bool known = a.pre_norm || which != kNorm2Weight;  // the norm at the end has not been made again
    norm(which, s).backward(x, g, n, known, add, dx, gradient(chunk, which), gradient(chunk, which + 1));
  }
  // The gradients of y = w x + b from g [n, N] and x [n, K].
  void linear_gradients(int64_t chunk, int which, int64_t n, const T* g, int64_t g_row, int64_t N, const T* x,
                        int64_t x_row, int64_t K) const {
    if (T* const dw = gradient(chunk, which)) {
      multiply_rows<T>(N, K, {g, 1, g_row, x, x_row, dw, K, n, RowStart::add});
    }
    if (T* const db = gradient(chunk, which + 1)) {
      add_row_sums(g, n, N, g_row, db);
    }
  }
  // to [n, K] = g [n, N] w (plus or times another).
  void through(int64_t n, const T* g, int64_t g_row, int64_t N, int which, int64_t K, T* to, int64_t to_row,
               RowEnd end = RowEnd::store, const T* other = nullptr) const {
    multiply_rows<T>(n, K, {g, g_row, 1, weight(which), K, to, to_row, N, RowStart::zero, nullptr, end, other});
  }

  // The gradient of y -> that of z1, in s.d or s.e.
  const T* feed_forward_backward(const Tile& t, int64_t chunk, const Scratch& s) const {
    const T *const dy = (const T*)a.g + t.token * D, *const z1 = (const T*)a.z1 + t.token * D,
                   *const h = (const T*)a.h + t.token * F;
    const T* dz3 = dy;
    if (!a.pre_norm) {
      norm_backward(chunk, kNorm2Weight, (const T*)a.z3 + t.token * D, dy, t.n, nullptr, s.d, s);
      dz3 = s.d;
    }
    const Middle m = middle(t, z1, s);
    const T* const added = dropped(t, kFeedForwardSite, dz3, s.e, s);
    with_activation(a.activation, [&]<Activation kind> {
      activate_rows_with_slopes<T, kind>(h, t.n, F, s.hidden, s.dh, hidden_row);
    });
    linear_gradients(chunk, kLinear2Weight, t.n, added, D, D, s.hidden, hidden_row, F);
    through(t.n, added, D, D, kLinear2Weight, F, s.dh, hidden_row, RowEnd::times, s.dh);
    linear_gradients(chunk, kLinear1Weight, t.n, s.dh, hidden_row, F, m.f_in, D, D);
    if (a.pre_norm) {
      through(t.n, s.dh, hidden_row, F, kLinear1Weight, D, s.e, D);
      norm_backward(chunk, kNorm2Weight, m.x2, s.e, t.n, dz3, s.d, s);
    } else {
      through(t.n, s.dh, hidden_row, F, kLinear1Weight, D, s.d, D, RowEnd::add, s.d);
    }
    T *g = s.d, *other = s.e;
    if (a.memory) {
      if (!a.pre_norm) {
        norm_backward(chunk, kNorm3Weight, m.z2, g, t.n, nullptr, other, s);
        T* const swapped = g;
        g = other;
        other = swapped;
      }
      if (a.dmemory) {
        memory_gradient(t, g, s);
      }
    }
    if (!a.pre_norm) {
      norm_backward(chunk, kNorm1Weight, z1, g, t.n, nullptr, other, s);
      g = other;
    }
    return g;
  }

  void attention_backward(const Tile& t, int64_t chunk, const T* dz1, const Scratch& s) const {
    const T *const x = (const T*)a.x + t.token * D, *const qkv = (const T*)a.qkv + t.token * 3 * D;
    T* const da = s.x2;
    const T* const ds = dropped(t, kAttentionSite, dz1, s.x1, s);
    through(t.n, ds, D, D, kOutWeight, D, da, D);
    attention(
        t, s,
        [&](const Attention<T>& one, int64_t at, int64_t L) {
          one.backward(L, qkv + at * 3 * D, da + at * D, s.qkv + at * 3 * D, s.v + at * D);
        },
        [&](const LaneAttention<T>& lanes, const LaneSequences<T>& group) {
          lanes.backward(group, qkv, da, s.qkv, s.v);
        });
    linear_gradients(chunk, kOutWeight, t.n, ds, D, D, s.v, D, D);
    if (a.pre_norm) {
      norm1(s).forward(x, t.n, s.u);
    }
    linear_gradients(chunk, kQkvWeight, t.n, s.qkv, 3 * D, 3 * D, a.pre_norm ? s.u : x, D, D);
    T* const dx = kept(a.dx, t.token, D, s.z2);
    if (a.pre_norm) {
      through(t.n, s.qkv, 3 * D, 3 * D, kQkvWeight, D, s.f_in, D);
      norm_backward(chunk, kNorm1Weight, x, s.f_in, t.n, dz1, dx, s);
    } else if (a.dx) {
      through(t.n, s.qkv, 3 * D, 3 * D, kQkvWeight, D, dx, D, RowEnd::add, dz1);
    }
  }

  void backward(int64_t chunk, T* room) const {
    const Scratch s = scratch(room);
    __builtin_memset((T*)a.partial + chunk * a.first(kSequenceWeights), 0, a.first(kSequenceWeights) * sizeof(T));
    const int64_t end = (chunk + 1) * a.chunk_tiles < a.tile_count ? (chunk + 1) * a.chunk_tiles : a.tile_count;
    for (int64_t i = chunk * a.chunk_tiles; i < end; ++i) {
      const Tile t = tile(i);
      attention_backward(t, chunk, feed_forward_backward(t, chunk, s), s);
    }
  }

  // The gradients of weights: the chunks' sums added up, in order.
  void reduce() const {
    for (int which = 0; which < kSequenceWeights; ++which) {
      T* const to = (T*)a.grads[which];
      for (int64_t c = 0; to && c < a.chunks; ++c) {
        add_all(c ? to : nullptr, gradient(c, which), a.size(which), to);
      }
    }
  }
};

}  // namespace

// Once per call, before the tiles.
void sequence_layer_pack(const SequenceLayerArgs& a) {
  a.is_double ? SequenceLayer<double>{a}.pack() : SequenceLayer<float>{a}.pack();
}
// Tiles [begin, end).
void sequence_layer_forward(const SequenceLayerArgs& a, int64_t begin, int64_t end, void* room) {
  const auto run = [&](const auto& layer, auto* p) {
    const auto s = layer.scratch(p);
    for (int64_t i = begin; i < end; ++i) {
      layer.forward(layer.tile(i), s);
    }
  };
  a.is_double ? run(SequenceLayer<double>{a}, (double*)room) : run(SequenceLayer<float>{a}, (float*)room);
}
// Chunks [begin, end), then the sums over all of them.
void sequence_layer_backward(const SequenceLayerArgs& a, int64_t begin, int64_t end, void* room) {
  for (int64_t c = begin; c < end; ++c) {
    a.is_double ? SequenceLayer<double>{a}.backward(c, (double*)room)
                : SequenceLayer<float>{a}.backward(c, (float*)room);
  }
}
void sequence_layer_reduce(const SequenceLayerArgs& a) {
  a.is_double ? SequenceLayer<double>{a}.reduce() : SequenceLayer<float>{a}.reduce();
}

}  // namespace ORD_ISA
