// Decoding numbers token by token: up to 48 rows go through a step together, each at a position of its own. A row that
// ends makes room for the next one, so every product has as many rows as there are.
//
// A step: q, k, v of the new token (of the first layer from a table, where tokens are fed back as they are); k, v into
// the row's cache; attention over it; the memory's part, a constant of the row and layer; the feed-forward part, 64
// hidden units at a time; logits; the token. Buffers lie as [tiles][rows][64], with room for all rows whatever their
// number.
#pragma once
#include "cpu/ops/value_decode_parts.h"
#include "cpu/ops/value_decode_weights.h"

namespace ORD_ISA {
void random_uniform(const int64_t* rows, const int64_t* draws, int64_t draw, int64_t seed, int64_t step, int64_t width,
                    float* out, int64_t begin, int64_t end);  // ops/rng.h
namespace {

template <class T>
struct Decode : PackedDecoder<T> {
  using V = typename Traits<T>::V;
  using P = PackedDecoder<T>;
  using P::a, P::nb, P::fb, P::vb, P::mb, P::tile, P::eps, P::layer, P::multiply, P::of_d, P::copy_padded;
  using P::head, P::head_b, P::embedding, P::project, P::project_b, P::values, P::last, P::position, P::table;
  static constexpr int W = kLanes<T>;
  const int64_t R = a.rows, RT = R * kTileWidth, dv = padded(a.d), width = a.d / a.heads;

  explicit Decode(const DecodeArgs& args) : P{args} {}

  // ---- a thread's rows

  T *x, *y, *qkv, *mixed, *hidden, *logits, *given, *projected, *added, *waiting, *constant, *keys, *vals, *line,
      *noise, *query, *joined, *score;
  int64_t n = 0;  // rows in flight, of which these are what is known
  struct Row {
    int64_t row, at, token, slot;  // position; the token that goes in there; where its cache lies
    T room, limit, total, read;    // capacity; the largest value allowed; sums of tokens' values, of windows
  } rows[kDecodeRows];
  int64_t seen = 0, queue = 0, ready = 0,
          end = 0;  // memories of rows [seen, ready) have been seen to; [queue, end) wait

  void settle(T* scratch) {
    const auto take = [&](int64_t size) { return (scratch += size) - size; };
    x = take(nb * RT), y = take(nb * RT), qkv = take(3 * nb * RT), mixed = take(nb * RT), hidden = take(RT),
    logits = take(vb * RT);
    given = take(mb * RT), projected = take(nb * RT), added = take(nb * RT), waiting = take(a.L * nb * RT),
    constant = take(a.L * nb * RT);
    keys = take(R * a.L * a.steps * dv + 16 * dv), vals = take(R * a.L * a.steps * dv);
    line = take(vb * kTileWidth), noise = take(vb * kTileWidth), query = take(dv), joined = take(dv),
    score = take(decode_scores(a));
  }  // and room behind

  // What the memory adds in each layer, of the next R rows: waiting [rows][L][nb 64].
  void see_to_memory() {
    seen = ready, ready = end - ready < R ? end : ready + R;
    const int64_t m = ready - seen;
    const auto of = [this](int64_t i) { return of_d(i); };
    to_tiles((const T*)a.memory + seen * a.M, m, a.M, given);
    if (a.project) {
      multiply(m, given, m * kTileWidth, a.M, project, project_b, nb, projected, m * kTileWidth, of);
    }
    for (int64_t l = 0; l < a.L; ++l) {
      const LayerOf<T> w = layer(l);
      multiply(m, a.project ? projected : given, m * kTileWidth, a.d, w.cross_value, w.cross_value_b, nb, mixed,
               m * kTileWidth, of);
      multiply(m, mixed, m * kTileWidth, a.d, w.cross_out, w.cross_out_b, nb, added, m * kTileWidth, of);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t i = 0; i < nb; ++i) {
          copy_padded(added + (i * m + r) * kTileWidth, of_d(i), waiting + ((r * a.L + l) * nb + i) * kTileWidth);
        }
      }
    }
  }

  bool more() const { return queue < end; }

  // The next row into place r.
  void admit(int64_t r, int64_t slot) {
    if (queue == ready) {
      see_to_memory();
    }
    const int64_t row = queue++, size = a.L * nb * kTileWidth, place = row - seen;
    __builtin_memcpy(constant + slot * size, waiting + place * size, size * sizeof(T));
    const T room = a.capacity ? ((const T*)a.capacity)[row] : (T)a.cap;
    rows[r] = {row, 0, kSos, slot, room, room, 0, 0};
    __builtin_memset(a.tokens + row * a.steps, 0, a.steps * sizeof(int64_t));
    feed(r, kSos);
    place_in(r);
  }

  void feed(int64_t r, int64_t token) const {
    for (int64_t i = 0; i < nb; ++i) {
      __builtin_memcpy(x + i * RT + r * kTileWidth, embedding + (i * vb * kTileWidth + token) * kTileWidth,
                       kTileWidth * sizeof(T));
    }
  }

  void place_in(int64_t r) const {
    if (a.position) {
      for (int64_t i = 0; i < nb; ++i) {
        add(x + i * RT + r * kTileWidth, position + (rows[r].at * nb + i) * kTileWidth);
      }
    }
  }

  static void add(T* to, const T* more) {
    for (int64_t j = 0; j < kTileWidth; j += W) {
      store(to + j, load(to + j) + load(more + j));
    }
  }

  const T* constant_of(int64_t r, int64_t l) const { return constant + (rows[r].slot * a.L + l) * nb * kTileWidth; }

  // ---- a step

  void norms(const T* from, const T* w, const T* b, T* to) const { norm<T>(n, a.d, eps, from, RT, w, b, to); }

  void attend_row(int64_t r, int64_t l) const {
    const Row& row = rows[r];
    const int64_t cache = (row.slot * a.L + l) * a.steps * dv;
    T *const k = keys + cache, *const v = vals + cache;
    const bool known = a.table && l == 0;
    const T* const from = known ? table + row.token * kTileWidth : qkv + r * kTileWidth;
    const int64_t stride = known ? a.V * kTileWidth : RT;
    const V scale = V{} + (T)(1 / __builtin_sqrt((double)width));
    for (int64_t i = 0; i < nb; ++i) {
      const T* const q = from + i * stride;
      const int64_t m = of_d(i);
      for (int64_t j = 0; j < m; j += W) {
        store(query + i * kTileWidth + j, load(q + j) * scale);
      }
      __builtin_memcpy(k + row.at * dv + i * kTileWidth, q + nb * stride, m * sizeof(T));
      __builtin_memcpy(v + row.at * dv + i * kTileWidth, q + 2 * nb * stride, m * sizeof(T));
    }
    T* const to =
        nb == 1 ? mixed + r * kTileWidth : joined;  // what is written behind it is the next row's, or of no use
    attention(row.at + 1, a.heads, width, dv, query, k, v, score, to);
    for (int64_t i = 0; nb > 1 && i < nb; ++i) {
      __builtin_memcpy(mixed + i * RT + r * kTileWidth, joined + i * kTileWidth, of_d(i) * sizeof(T));
    }
  }

  void step() const {
    const auto of = [this](int64_t i) { return of_d(i); };
    for (int64_t l = 0; l < a.L; ++l) {
      const LayerOf<T> w = layer(l);
      if (a.pre) {
        norms(x, w.norm1, w.norm1_b, y);
      }
      if (!a.table || l) {
        multiply(n, a.pre ? y : x, RT, a.d, w.qkv, w.qkv_b, 3 * nb, qkv, RT,
                 [this](int64_t i) { return of_d(i % nb); });
      }
      for (int64_t r = 0; r < n; ++r) {
        attend_row(r, l);
      }
      multiply(n, mixed, RT, a.d, w.out, w.out_b, nb, x, RT, of, x);
      if (!a.pre) {
        norms(x, w.norm1, w.norm1_b, x);
      }
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t i = 0; i < nb; ++i) {
          add(x + i * RT + r * kTileWidth, constant_of(r, l) + i * kTileWidth);
        }
      }
      a.pre ? norms(x, w.norm3, w.norm3_b, y) : norms(x, w.norm2, w.norm2_b, x);
      const T* const in = a.pre ? y : x;
      T* const out = a.pre ? x : y;
      for (int64_t j = 0; j < fb; ++j) {
        const int64_t units = tile_columns(a.F, j);
        for (int64_t i = 0; i < nb; ++i) {
          multiply_tile<T>(n, in + i * RT, w.linear1 + (j * nb + i) * tile, of_d(i),
                           i ? hidden : w.linear1_b + j * kTileWidth, i ? kTileWidth : 0, nullptr, hidden, units);
        }
        activate(hidden, n * kTileWidth, a.gelu);
        for (int64_t i = 0; i < nb; ++i) {
          multiply_tile<T>(n, hidden, w.linear2 + (j * nb + i) * tile, units, (j ? out : x) + i * RT, kTileWidth,
                           j ? nullptr : w.linear2_b + i * kTileWidth, out + i * RT, of_d(i));
        }
      }
      if (!a.pre) {
        norms(y, w.norm3, w.norm3_b, x);
      }
    }
    if (a.pre) {
      norms(x, last, last + nb * kTileWidth, y);
    }
    multiply(n, a.pre ? y : x, RT, a.d, head, head_b, vb, logits, RT,
             [this](int64_t i) { return tile_columns(a.V, i); });
  }

  // ---- the token

  // Masks what the row's limits forbid. True if there is a NaN.
  bool constrain(T* l, int64_t size, T limit) const {
    const T eos = l[kEos];
    Ints<V> bad = {};
    for (int64_t j = 0; j < size; j += W) {
      const V v = load(l + j);
      bad |= v != v;
      store(l + j, load(values + j) <= limit ? v : V{} - (T)__builtin_inf());
    }
    l[kPad] = l[kSos] = -(T)__builtin_inf(), l[kEos] = eos;
    return any(bad);
  }

  // Logits and Gumbel noise of the row, in `noise`.
  const T* perturb(const Row& row, const T* l, int64_t size) const {
    float* const made = (float*)noise;
    random_uniform(a.row_ids + row.row, a.draw_ids ? a.draw_ids + row.row : nullptr, 0, a.seed, row.at + 1, a.V, made,
                   0, 1);
    if constexpr (sizeof(T) == 8) {
      for (int64_t i = a.V; i-- > 0;) {  // in place, from the end
        float u;
        __builtin_memcpy(&u, made + i, sizeof u);
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
  static int64_t first_largest(const T* s, int64_t size, T& most) {
    V top = V{} - (T)__builtin_inf();
    Ints<V> bad = {};
    for (int64_t j = 0; j < size; j += W) {
      const V v = load(s + j);
      bad |= v != v;
      top = v > top ? v : top;
    }
    if (any(bad)) {
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

  // The mixture of the embeddings of the value tokens around this one, by a softmax over these, into x.
  void mix_window(int64_t r, int64_t token, const T* l) const {
    if (token < kFirstValue) {
      return feed(r, token);
    }
    const int64_t from = token - a.half < kFirstValue ? (int64_t)kFirstValue : token - a.half,
                  to = token + a.half < a.V ? token + a.half + 1 : a.V;
    T most = l[token];
    for (int64_t j = from; j < to; ++j) {
      most = l[j] > most ? l[j] : most;
    }
    const T share = 1 / exponentials(l, from, to, most, noise);
    for (int64_t i = 0; i < nb; ++i) {
      V mix[kTileWidth / W] = {};
      const T* E = embedding + (i * vb * kTileWidth + from) * kTileWidth;
      for (int64_t j = 0; j < to - from; ++j, E += kTileWidth)
#pragma GCC unroll 32
        for (int v = 0; v < kTileWidth / W; ++v) {
          mix[v] += noise[j] * load(E + v * W);
        }
      for (int v = 0; v < kTileWidth / W; ++v) {
        store(x + i * RT + r * kTileWidth + v * W, mix[v] * share);
      }
    }
  }

  // Row r's next token from its logits, and what follows from it. True where the row ends.
  bool choose(int64_t r) {
    Row& row = rows[r];
    const int64_t size = (a.V + W - 1) / W * W;
    T* const l = vb == 1 ? logits + r * kTileWidth : line;
    for (int64_t i = 0; vb > 1 && i < vb; ++i) {
      __builtin_memcpy(line + i * kTileWidth, logits + i * RT + r * kTileWidth, kTileWidth * sizeof(T));
    }
    bool broken = a.constrained && constrain(l, size, row.limit);
    T most = 0;
    const int64_t token = first_largest(a.temperature > 0 ? perturb(row, l, size) : l, size, most);
    broken |= token < 0;
    if (broken) {
      row.total = row.read = (T)__builtin_nan("");
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
      if (a.temperature > 0) {
        V top = V{} - (T)__builtin_inf();
        for (int64_t j = 0; j < size; j += W) {
          top = load(l + j) > top ? load(l + j) : top;
        }
        most = largest(top);
      }
      const T share = 1 / exponentials(l, 0, size, most, l);
      if (a.windowed) {
        const int64_t from = token < a.half ? 0 : token - a.half, to = token + a.half < a.V ? token + a.half + 1 : a.V;
        V s = {};
        for_each_vector<T>(to - from, [&](int64_t j, int lanes) __attribute__((always_inline)) {
          V v = load(l + from + j) * load(values + from + j);
          if (lanes < W) {
            v = (V)((Ints<V>)v & first_lanes(lanes, V{}));
          }
          s += v;
        });
        row.read += sum(s) * share;
      }
      if (a.mixup == kFullMixup) {
        for (int64_t i = 0, j = 0; i < vb; ++i) {
          for (T* to = logits + i * RT + r * kTileWidth; j < size && j < (i + 1) * kTileWidth; j += W, to += W) {
            store(to, load(l + j) * share);
          }
        }
      }
    }
    if (a.mixup == kNoMixup && !ends) {
      feed(r, token);
    }
    const T rest = row.room - row.total;
    row.limit = a.monotone && values[token] < rest ? values[token] : rest;  // NaN stays
    if (ends) {
      a.lengths[row.row] = row.at - (token == kEos);
    }
    return ends;
  }

  void finish(const Row& row) const {
    T v = a.windowed ? row.read : row.total;
    if (a.constrained && (row.room != row.room || (a.windowed && row.room < v))) {
      v = row.room;
    }
    ((T*)a.value)[row.row] = v;
  }

  // Rows [first, last) from SOS to their ends.
  void run(int64_t first, int64_t last, T* scratch) {
    settle(scratch);
    queue = ready = first, end = last;
    for (; n < R && more(); ++n) {
      admit(n, n);
    }
    static const T zeros[kTileWidth] = {};
    bool ends[kDecodeRows];
    while (n) {
      step();
      for (int64_t r = 0; r < n; ++r) {
        ends[r] = choose(r);
      }
      if (a.mixup == kFullMixup) {
        for (int64_t i = 0; i < nb; ++i) {
          for (int64_t k = 0; k < vb; ++k) {
            multiply_tile<T>(n, logits + k * RT, embedding + (i * vb + k) * tile, tile_columns(a.V, k),
                             k ? x + i * RT : zeros, k ? kTileWidth : 0, nullptr, x + i * RT, kTileWidth);
          }
        }
      }
      for (int64_t r = n; r-- > 0;) {
        if (!ends[r]) {
          place_in(r);
          continue;
        }
        finish(rows[r]);
        if (more()) {
          admit(r, rows[r].slot);
        } else if (r != --n) {
          for (int64_t i = 0; i < nb; ++i) {
            __builtin_memcpy(x + i * RT + r * kTileWidth, x + i * RT + n * kTileWidth, kTileWidth * sizeof(T));
          }
          rows[r] = rows[n];
        }
      }
    }
  }
};

}  // namespace

void value_decode_prepare(const DecodeArgs& a) {
  a.is_double ? PackedDecoder<double>{a}.prepare() : PackedDecoder<float>{a}.prepare();
}
void value_decode(const DecodeArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.is_double ? Decode<double>(a).run(begin, end, (double*)scratch) : Decode<float>(a).run(begin, end, (float*)scratch);
}

}  // namespace ORD_ISA
