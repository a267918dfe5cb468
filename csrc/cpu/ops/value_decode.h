// Decoding numbers token by token: up to 48 rows go through a step together, each at a position of its own. A row that
// ends makes way for the next one, so every product has as many rows as there are.
//
// A step: q, k, v of the new token (of the first layer from a table, where tokens are fed back as they are); k, v into
// the row's cache; attention over it; the memory's part, a constant of the row and layer; the feed-forward part;
// logits; the token.
#pragma once
#include "cpu/ops/rng_args.h"
#include "cpu/ops/value_decode_step.h"

namespace ORD_ISA {
namespace {

template <class T>
struct ValueDecoder : DecoderStep<T> {
  using V = typename Traits<T>::V;
  using S = DecoderStep<T>;
  using Row = typename S::Row;
  using S::a, S::d_tiles, S::v_tiles, S::R, S::tile_rows, S::embedding, S::values;
  using S::x, S::logits, S::line, S::noise, S::rows, S::n;
  static constexpr int W = kLanes<T>;
  const int64_t size = (a.V + W - 1) / W * W;  // a row's logits, in whole vectors

  explicit ValueDecoder(const ValueDecodeArgs& args) : S(args) {}

  // ---- a row's logits

  // Masks what the row's limits forbid. True if there is a NaN.
  bool constrain(T* l, T limit) const {
    const T eos = l[kEos];
    Ints<V> nan = {};
    for (int64_t j = 0; j < size; j += W) {
      const V v = load(l + j);
      nan |= v != v;
      store(l + j, load(values + j) <= limit ? v : V{} - (T)__builtin_inf());
    }
    l[kPad] = l[kSos] = -(T)__builtin_inf(), l[kEos] = eos;
    return any(nan);
  }

  // Logits and Gumbel noise of the row, in `noise`.
  const T* perturb(const Row& row, const T* l) const {
    float* const uniform = (float*)noise;
    const int64_t* const draw_id = a.draw_ids ? a.draw_ids + row.row : nullptr;
    random_uniform({a.row_ids + row.row, draw_id, 0, a.seed, row.at + 1, a.V, uniform}, 0, 1);
    if constexpr (sizeof(T) == 8) {
      for (int64_t i = a.V; i-- > 0;) {  // in place, from the end
        float u;
        __builtin_memcpy(&u, uniform + i, sizeof u);
        noise[i] = u;
      }
    }
    for (int64_t j = a.V; j < size; ++j) {
      noise[j] = (T)0.5;
    }
    const V inverse = V{} + (T)(1 / a.temperature), least = V{} + (T)0x1p-25;
    for (int64_t j = 0; j < size; j += W) {
      V e = -log_plus(load(noise + j), V{});
      e = e < least ? least : e;
      store(noise + j, load(l + j) * inverse - log_plus(e, V{}));
    }
    return noise;
  }

  // The place of the largest, the first of equals; -1 where there is a NaN.
  int64_t first_largest(const T* s, T& most) const {
    V top = V{} - (T)__builtin_inf();
    Ints<V> nan = {};
    for (int64_t j = 0; j < size; j += W) {
      const V v = load(s + j);
      nan |= v != v;
      top = v > top ? v : top;
    }
    if (any(nan)) {
      return -1;
    }
    most = largest(top);
    for (int64_t j = 0; j < size; j += W) {
      if (any(load(s + j) == most)) {
        for (int i = 0; i < W; ++i) {
          if (s[j + i] == most) {
            return j + i;
          }
        }
      }
    }
    return 0;
  }

  T largest_logit(const T* l) const {
    V top = V{} - (T)__builtin_inf();
    for (int64_t j = 0; j < size; j += W) {
      top = load(l + j) > top ? load(l + j) : top;
    }
    return largest(top);
  }

  // exp(l - most) of l [from, to) into e [0, to - from); their sum.
  static T exponentials(const T* l, int64_t from, int64_t to, T most, T* e) {
    V all = {};
    for_each_vector<T>(to - from, [&](int64_t j, int lanes) __attribute__((always_inline)) {
      V v = load(l + from + j) - most, em1;
      exp_neg(v, v, em1);
      if (lanes < W) {
        v = (V)((Ints<V>)v & first_lanes(lanes, V{}));
      }
      store(e + j, v);
      all += v;
    });
    return sum(all);
  }

  // ---- what is fed back

  int64_t window_end(int64_t token) const { return token + a.half < a.V ? token + a.half + 1 : a.V; }

  // The mixture of the embeddings of the value tokens around this one, by a softmax over these, into x.
  void mix_window(int64_t r, int64_t token, const T* l) const {
    if (token < kFirstValue) {
      return S::feed(r, token);
    }
    const int64_t from = token - a.half < kFirstValue ? (int64_t)kFirstValue : token - a.half, to = window_end(token);
    T most = l[token];
    for (int64_t j = from; j < to; ++j) {
      most = l[j] > most ? l[j] : most;
    }
    const T share = 1 / exponentials(l, from, to, most, noise);
    for (int64_t i = 0; i < d_tiles; ++i) {
      V mix[kTileWidth / W] = {};
      const T* E = embedding + (i * v_tiles * kTileWidth + from) * kTileWidth;
      for (int64_t j = 0; j < to - from; ++j, E += kTileWidth) {
#pragma GCC unroll 32
        for (int v = 0; v < kTileWidth / W; ++v) {
          mix[v] += noise[j] * load(E + v * W);
        }
      }
      for (int v = 0; v < kTileWidth / W; ++v) {
        store(x + i * tile_rows + r * kTileWidth + v * W, mix[v] * share);
      }
    }
  }

  // The softmax of the row's logits in place, not yet normalised, for what is read from it: the value expected in the
  // token's window, and the mixture of all embeddings (its weights go back to the logits).
  void read_softmax(int64_t r, int64_t token, T* l, T most) {
    const T share = 1 / exponentials(l, 0, size, most, l);
    if (a.windowed) {
      const int64_t from = token < a.half ? 0 : token - a.half, to = window_end(token);
      V s = {};
      for_each_vector<T>(to - from, [&](int64_t j, int lanes) __attribute__((always_inline)) {
        V v = load(l + from + j) * load(values + from + j);
        if (lanes < W) {
          v = (V)((Ints<V>)v & first_lanes(lanes, V{}));
        }
        s += v;
      });
      rows[r].expected += sum(s) * share;
    }
    for (int64_t i = 0, j = 0; a.mixup == kFullMixup && i < v_tiles; ++i) {
      for (T* to = logits + i * tile_rows + r * kTileWidth; j < size && j < (i + 1) * kTileWidth; j += W, to += W) {
        store(to, load(l + j) * share);
      }
    }
  }

  // x = the mixtures of all embeddings, by the weights that read_softmax has left.
  void mix_all() const {
    static const T zeros[kTileWidth] = {};
    for (int64_t i = 0; i < d_tiles; ++i) {
      multiply_tiles<T>(n, {logits, tile_rows, a.V}, embedding + i * v_tiles * kTileSize, {zeros}, x + i * tile_rows,
                        kTileWidth);
    }
  }

  // ---- rows

  // Row r's next token from its logits, and what follows from it. True where the row ends.
  bool choose_token(int64_t r) {
    Row& row = rows[r];
    T* const l = v_tiles == 1 ? logits + r * kTileWidth : line;
    for (int64_t i = 0; v_tiles > 1 && i < v_tiles; ++i) {
      __builtin_memcpy(line + i * kTileWidth, logits + i * tile_rows + r * kTileWidth, kTileWidth * sizeof(T));
    }
    const bool has_nan = a.constrained && constrain(l, row.limit);
    T most = 0;
    const int64_t token = first_largest(a.temperature > 0 ? perturb(row, l) : l, most);
    if (has_nan || token < 0) {
      row.total = row.expected = (T)__builtin_nan("");
      a.lengths[row.row] = row.at;
      return true;
    }
    a.tokens[row.row * a.steps + row.at++] = token;
    row.token = token, row.total += values[token];
    const bool ends = token == kEos || row.at == a.steps;
    if (a.mixup == kWindowMixup && !ends) {
      mix_window(r, token, l);
    }
    if (a.windowed || a.mixup == kFullMixup) {
      read_softmax(r, token, l, a.temperature > 0 ? largest_logit(l) : most);
    }
    if (a.mixup == kNoMixup && !ends) {
      S::feed(r, token);
    }
    const T rest = row.remaining - row.total;
    row.limit = a.monotone && values[token] < rest ? values[token] : rest;  // NaN stays
    if (ends) {
      a.lengths[row.row] = row.at - (token == kEos);
    }
    return ends;
  }

  void finish_row(const Row& row) const {
    T v = a.windowed ? row.expected : row.total;
    if (a.constrained && (row.remaining != row.remaining || (a.windowed && row.remaining < v))) {
      v = row.remaining;
    }
    ((T*)a.value)[row.row] = v;
  }

  // Place r of a row that has ended, to the next one or to the last in flight.
  void replace_row(int64_t r) {
    if (S::has_more()) {
      S::start_row(r, rows[r].slot);
    } else if (r != --n) {
      for (int64_t i = 0; i < d_tiles; ++i) {
        T* const tile = x + i * tile_rows;
        __builtin_memcpy(tile + r * kTileWidth, tile + n * kTileWidth, kTileWidth * sizeof(T));
      }
      rows[r] = rows[n];
    }
  }

  // Rows [first, last) from SOS to their ends.
  void run(int64_t first, int64_t last, T* scratch) {
    S::bind_scratch(scratch);
    S::queue = S::end_pending = first, S::end = last;
    for (; n < R && S::has_more(); ++n) {
      S::start_row(n, n);
    }
    bool ends[kDecodeRows];
    while (n) {
      S::step();
      for (int64_t r = 0; r < n; ++r) {
        ends[r] = choose_token(r);
      }
      if (a.mixup == kFullMixup) {
        mix_all();
      }
      for (int64_t r = n; r-- > 0;) {
        if (ends[r]) {
          finish_row(rows[r]);
          replace_row(r);
        } else {
          S::add_position(r);
        }
      }
    }
  }
};

}  // namespace

void value_decode_pack(const ValueDecodeArgs& a) {
  a.is_double ? PackedDecoder<double>{a}.pack_weights() : PackedDecoder<float>{a}.pack_weights();
}
void value_decode(const ValueDecodeArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.is_double ? ValueDecoder<double>(a).run(begin, end, (double*)scratch)
              : ValueDecoder<float>(a).run(begin, end, (float*)scratch);
}

}  // namespace ORD_ISA
