// One step of the decoder, of all rows in flight, and the memory's part in it. Buffers lie as [tiles][rows][64], with
// places for all rows whatever their number.
#pragma once
#include "cpu/ops/value_decode_math.h"
#include "cpu/ops/value_decode_weights.h"

namespace ORD_ISA {
namespace {

template <class T>
struct DecoderStep : PackedDecoder<T> {
  using V = typename Traits<T>::V;
  using P = PackedDecoder<T>;
  using P::a, P::d_tiles, P::f_tiles, P::v_tiles, P::m_tiles, P::eps, P::layer, P::d_columns, P::copy_padded;
  using P::head, P::head_b, P::embedding, P::project, P::project_b, P::last_norm, P::position, P::qkv_table;
  static constexpr int W = kLanes<T>;
  const int64_t R = a.rows_together, tile_rows = R * kTileWidth;  // elements of a tile of all rows
  const int64_t cache_row = padded(a.d), head_width = a.d / a.heads;

  explicit DecoderStep(const ValueDecodeArgs& args) : P{args} {}

  T *x, *y, *qkv, *mixed, *hidden, *logits;  // of the rows in flight
  T *memory_tiles, *projected, *cross;       // of the next rows' memories
  T* pending;                                // [rows][L][d_tiles 64]: what the next rows' memories add in each layer
  T* constant;                               // [slots][L][d_tiles 64]: the same of the rows in flight
  T *keys, *vals;                            // [slots][L][steps][cache_row]
  T *line, *noise;                           // [v_tiles 64]: a row's logits; noise
  T *query, *joined, *score;                 // of one row's attention

  int64_t n = 0;  // rows in flight
  struct Row {
    int64_t row, at, token, slot;  // position; the token that goes in there; where its cache lies
    T remaining, limit;            // capacity; the largest value allowed
    T total, expected;             // sums of the tokens' values, of the values expected in their windows
  } rows[kDecodeRows];
  int64_t first_pending = 0, queue = 0, end_pending = 0, end = 0;  // memories of rows [first_pending, end_pending) are
                                                                   // projected; [queue, end) wait

  void bind_scratch(T* scratch) {
    const auto take = [&](int64_t size) { return (scratch += size) - size; };
    x = take(d_tiles * tile_rows), y = take(d_tiles * tile_rows), qkv = take(3 * d_tiles * tile_rows);
    mixed = take(d_tiles * tile_rows), hidden = take(tile_rows), logits = take(v_tiles * tile_rows);
    memory_tiles = take(m_tiles * tile_rows), projected = take(d_tiles * tile_rows), cross = take(d_tiles * tile_rows);
    pending = take(a.L * d_tiles * tile_rows), constant = take(a.L * d_tiles * tile_rows);
    keys = take(R * a.L * a.steps * cache_row + 16 * cache_row), vals = take(R * a.L * a.steps * cache_row);
    line = take(v_tiles * kTileWidth), noise = take(v_tiles * kTileWidth);
    query = take(cache_row), joined = take(cache_row), score = take(decode_scores(a));
  }

  // ---- rows

  // What the memory adds in each layer, of the next R rows.
  void project_next_memory() {
    first_pending = end_pending, end_pending = end - end_pending < R ? end : end_pending + R;
    const int64_t m = end_pending - first_pending, rows_of_tile = m * kTileWidth;
    const auto columns = [this](int64_t i) { return d_columns(i); };
    to_tiles((const T*)a.memory + first_pending * a.M, m, a.M, memory_tiles);
    if (a.projects_memory) {
      P::multiply(m, {memory_tiles, rows_of_tile, a.M}, {project, project_b, a.M, d_tiles}, projected, rows_of_tile,
                  columns);
    }
    for (int64_t l = 0; l < a.L; ++l) {
      const LayerWeights<T> w = layer(l);
      P::multiply(m, {a.projects_memory ? projected : memory_tiles, rows_of_tile, a.d},
                  {w.cross_value, w.cross_value_b, a.d, d_tiles}, mixed, rows_of_tile, columns);
      P::multiply(m, {mixed, rows_of_tile, a.d}, {w.cross_out, w.cross_out_b, a.d, d_tiles}, cross, rows_of_tile,
                  columns);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t i = 0; i < d_tiles; ++i) {
          copy_padded(cross + (i * m + r) * kTileWidth, d_columns(i),
                      pending + ((r * a.L + l) * d_tiles + i) * kTileWidth);
        }
      }
    }
  }

  bool has_more() const { return queue < end; }

  // The next row into place r.
  void start_row(int64_t r, int64_t slot) {
    if (queue == end_pending) {
      project_next_memory();
    }
    const int64_t row = queue++, size = a.L * d_tiles * kTileWidth;
    __builtin_memcpy(constant + slot * size, pending + (row - first_pending) * size, size * sizeof(T));
    const T capacity = a.capacity ? ((const T*)a.capacity)[row] : (T)a.cap;
    rows[r] = {row, 0, kSos, slot, capacity, capacity, 0, 0};
    __builtin_memset(a.tokens + row * a.steps, 0, a.steps * sizeof(int64_t));
    feed(r, kSos);
    add_position(r);
  }

  void feed(int64_t r, int64_t token) const {
    for (int64_t i = 0; i < d_tiles; ++i) {
      __builtin_memcpy(x + i * tile_rows + r * kTileWidth, embedding + (i * v_tiles * kTileWidth + token) * kTileWidth,
                       kTileWidth * sizeof(T));
    }
  }

  void add_position(int64_t r) const {
    for (int64_t i = 0; a.position && i < d_tiles; ++i) {
      add(x + i * tile_rows + r * kTileWidth, position + (rows[r].at * d_tiles + i) * kTileWidth);
    }
  }

  static void add(T* to, const T* more) {
    for (int64_t j = 0; j < kTileWidth; j += W) {
      store(to + j, load(to + j) + load(more + j));
    }
  }

  // ---- layers

  void norms(const T* from, const T* w, const T* b, T* to) const { norm<T>(n, a.d, eps, from, tile_rows, w, b, to); }

  void attend_row(int64_t r, int64_t l) const {
    const Row& row = rows[r];
    const int64_t cache = (row.slot * a.L + l) * a.steps * cache_row;
    T *const k = keys + cache, *const v = vals + cache;
    const bool tabulated = a.tabulate_qkv && l == 0;
    const T* const from = tabulated ? qkv_table + row.token * kTileWidth : qkv + r * kTileWidth;
    const int64_t stride = tabulated ? a.V * kTileWidth : tile_rows;
    const V scale = V{} + (T)(1 / __builtin_sqrt((double)head_width));
    for (int64_t i = 0; i < d_tiles; ++i) {
      const T* const q = from + i * stride;
      const int64_t m = d_columns(i);
      for (int64_t j = 0; j < m; j += W) {
        store(query + i * kTileWidth + j, load(q + j) * scale);
      }
      __builtin_memcpy(k + row.at * cache_row + i * kTileWidth, q + d_tiles * stride, m * sizeof(T));
      __builtin_memcpy(v + row.at * cache_row + i * kTileWidth, q + 2 * d_tiles * stride, m * sizeof(T));
    }
    // What is written past it is overwritten by the next row, or never read.
    T* const to = d_tiles == 1 ? mixed + r * kTileWidth : joined;
    attention<T>({row.at + 1, a.heads, head_width, cache_row, query, k, v, score, to});
    for (int64_t i = 0; d_tiles > 1 && i < d_tiles; ++i) {
      __builtin_memcpy(mixed + i * tile_rows + r * kTileWidth, joined + i * kTileWidth, d_columns(i) * sizeof(T));
    }
  }

  void add_memory(int64_t l) const {
    for (int64_t r = 0; r < n; ++r) {
      const T* const from = constant + (rows[r].slot * a.L + l) * d_tiles * kTileWidth;
      for (int64_t i = 0; i < d_tiles; ++i) {
        add(x + i * tile_rows + r * kTileWidth, from + i * kTileWidth);
      }
    }
  }

  // out = x + linear2(activation(linear1(in))), 64 hidden units at a time.
  void feed_forward(const LayerWeights<T>& w, const T* in, T* out) const {
    for (int64_t j = 0; j < f_tiles; ++j) {
      const int64_t units = tile_columns(a.F, j);
      multiply_tiles<T>(n, {in, tile_rows, a.d}, w.linear1 + j * d_tiles * kTileSize, {w.linear1_b + j * kTileWidth},
                        hidden, units);
      activate(hidden, n * kTileWidth, a.gelu);
      for (int64_t i = 0; i < d_tiles; ++i) {
        multiply_tile(n, TileProduct<T>{hidden, w.linear2 + (j * d_tiles + i) * kTileSize, units,
                                        (j ? out : x) + i * tile_rows, kTileWidth,
                                        j ? nullptr : w.linear2_b + i * kTileWidth, out + i * tile_rows, d_columns(i)});
      }
    }
  }

  // x of every row's new token -> logits.
  void step() const {
    for (int64_t l = 0; l < a.L; ++l) {
      const LayerWeights<T> w = layer(l);
      if (a.pre_norm) {
        norms(x, w.norm1, w.norm1_b, y);
      }
      if (!a.tabulate_qkv || l) {
        P::multiply(n, {a.pre_norm ? y : x, tile_rows, a.d}, {w.qkv, w.qkv_b, a.d, 3 * d_tiles}, qkv, tile_rows,
                    [this](int64_t i) { return d_columns(i % d_tiles); });
      }
      for (int64_t r = 0; r < n; ++r) {
        attend_row(r, l);
      }
      P::multiply(
          n, {mixed, tile_rows, a.d}, {w.out, w.out_b, a.d, d_tiles}, x, tile_rows,
          [this](int64_t i) { return d_columns(i); }, x);
      if (!a.pre_norm) {
        norms(x, w.norm1, w.norm1_b, x);
      }
      add_memory(l);
      if (a.pre_norm) {
        norms(x, w.norm3, w.norm3_b, y);
        feed_forward(w, y, x);
      } else {
        norms(x, w.norm2, w.norm2_b, x);
        feed_forward(w, x, y);
        norms(y, w.norm3, w.norm3_b, x);
      }
    }
    if (a.pre_norm) {
      norms(x, last_norm, last_norm + d_tiles * kTileWidth, y);
    }
    P::multiply(n, {a.pre_norm ? y : x, tile_rows, a.d}, {head, head_b, a.d, v_tiles}, logits, tile_rows,
                [this](int64_t i) { return tile_columns(a.V, i); });
  }
};

}  // namespace
}  // namespace ORD_ISA
