// A decoder's weights in tiles, as the value_decode kernel reads them: packed once per call.
#pragma once
#include "cpu/gemm/tile_product.h"
#include "cpu/ops/value_decode_args.h"

namespace ORD_ISA {
namespace {

// Matrices in tiles, [tiles of outputs][tiles of inputs]; linear2 as [tiles of inputs][tiles of outputs].
template <class T>
struct LayerWeights {
  T *qkv, *out, *cross_value, *cross_out, *linear1, *linear2;
  T *qkv_b, *out_b, *cross_value_b, *cross_out_b, *linear1_b, *linear2_b;
  T *norm1, *norm1_b, *norm2, *norm2_b, *norm3, *norm3_b;
};

// A linear map [outputs][inputs] in tiles, with a bias for each output.
template <class T>
struct Linear {
  const T *w, *bias;
  int64_t inputs, outputs;  // elements; tiles
};

template <class T>
struct PackedDecoder {
  const ValueDecodeArgs& a;
  const int64_t d_tiles = tiles_of(a.d), f_tiles = tiles_of(a.F), v_tiles = tiles_of(a.V), m_tiles = tiles_of(a.M);

  T* const layers = (T*)a.packed;
  T* const head = layers + a.L * decode_layer_size(a);                                  // [v_tiles][d_tiles] tiles
  T* const embedding = head + kTileSize * d_tiles * v_tiles;                            // [d_tiles][v_tiles 64][64]
  T* const project = embedding + kTileSize * d_tiles * v_tiles;                         // [d_tiles][m_tiles] tiles
  T* const head_b = project + (a.projects_memory ? kTileSize * d_tiles * m_tiles : 0);  // padded by -inf
  T* const values = head_b + v_tiles * kTileWidth;
  T* const project_b = values + v_tiles * kTileWidth;
  T* const last_norm = project_b + d_tiles * kTileWidth;           // weight, bias
  T* const position = last_norm + 2 * d_tiles * kTileWidth;        // [steps][d_tiles 64]
  T* const qkv_table = position + a.steps * d_tiles * kTileWidth;  // [3 d_tiles][V][64]
  const T eps = (T)a.eps;

  int64_t d_columns(int64_t i) const { return tile_columns(a.d, i); }

  LayerWeights<T> layer(int64_t i) const {
    LayerWeights<T> w;
    T* at = layers + i * decode_layer_size(a);
    const auto take = [&](int64_t n) { return (at += n) - n; };
    const int64_t dd = kTileSize * d_tiles * d_tiles, df = kTileSize * d_tiles * f_tiles;
    w.qkv = take(3 * dd);
    w.out = take(dd), w.cross_value = take(dd), w.cross_out = take(dd);
    w.linear1 = take(df), w.linear2 = take(df);
    w.qkv_b = take(3 * d_tiles * kTileWidth);
    T** const vectors[] = {&w.out_b,   &w.cross_value_b, &w.cross_out_b, &w.linear2_b, &w.norm1,
                           &w.norm1_b, &w.norm2,         &w.norm2_b,     &w.norm3,     &w.norm3_b};
    for (T** p : vectors) {
      *p = take(d_tiles * kTileWidth);
    }
    w.linear1_b = take(f_tiles * kTileWidth);
    return w;
  }

  static void copy_padded(const void* from, int64_t n, T* to, T padding = 0) {
    __builtin_memcpy(to, from, n * sizeof(T));
    for (int64_t i = n; i < tiles_of(n) * kTileWidth; ++i) {
      to[i] = padding;
    }
  }

  // The weights in the order that they come in.
  struct Reader {
    const void* const* from;
    const T* next() { return (const T*)*from++; }
    void vector(int64_t n, T* to) { copy_padded(next(), n, to); }
    void linear(int64_t outputs, int64_t inputs, T* w, T* bias) {
      pack_tiles(next(), inputs, outputs, inputs, w);
      vector(outputs, bias);
    }
  };

  // Once per call: everything in tiles, zero-padded.
  void pack_weights() const {
    Reader from{a.weights};
    pack_tokens(from);
    for (int64_t l = 0; l < a.L; ++l) {
      pack_layer(from, layer(l));
    }
    if (a.projects_memory) {
      from.linear(a.d, a.M, project, project_b);
    }
    if (a.pre_norm) {
      from.vector(a.d, last_norm), from.vector(a.d, last_norm + d_tiles * kTileWidth);
    }
    for (int64_t t = 0; a.position && t < a.steps; ++t) {
      copy_padded((const T*)a.position + t * a.d, a.d, position + t * d_tiles * kTileWidth);
    }
    if (a.tabulate_qkv) {
      multiply(a.V, {embedding, v_tiles * kTileSize, a.d}, {layer(0).qkv, layer(0).qkv_b, a.d, 3 * d_tiles}, qkv_table,
               a.V * kTileWidth, [&](int64_t i) { return d_columns(i % d_tiles); });
    }
  }

  // The embedding, the head, the tokens' values.
  void pack_tokens(Reader& from) const {
    const T *const E = from.next(), *const head_w = from.next(), *const head_bias = from.next();
    pack_tiles(head_w, a.d, a.V, a.d, head);
    copy_padded(head_bias, a.V, head_b, -(T)__builtin_inf());
    copy_padded(a.values, a.V, values);
    for (int64_t i = 0; i < d_tiles; ++i) {
      for (int64_t v = 0; v < a.V; ++v) {
        T* const to = embedding + (i * v_tiles * kTileWidth + v) * kTileWidth;
        __builtin_memset(to, 0, kTileWidth * sizeof(T));
        __builtin_memcpy(to, E + v * a.d + i * kTileWidth, d_columns(i) * sizeof(T));
      }
    }
  }

  void pack_layer(Reader& from, const LayerWeights<T>& w) const {
    const int64_t d = a.d;
    const T *const qkv = from.next(), *const qkv_b = from.next();
    for (int64_t p = 0; p < 3; ++p) {
      pack_tiles(qkv + p * d * d, d, d, d, w.qkv + p * kTileSize * d_tiles * d_tiles);
      copy_padded(qkv_b + p * d, d, w.qkv_b + p * d_tiles * kTileWidth);
    }
    from.linear(d, d, w.out, w.out_b);
    from.linear(d, d, w.cross_value, w.cross_value_b);
    from.linear(d, d, w.cross_out, w.cross_out_b);
    from.linear(a.F, d, w.linear1, w.linear1_b);
    const T* const linear2 = from.next();
    for (int64_t j = 0; j < f_tiles; ++j) {
      for (int64_t i = 0; i < d_tiles; ++i) {
        pack_tiles(linear2 + i * kTileWidth * a.F + j * kTileWidth, a.F, d_columns(i), tile_columns(a.F, j),
                   w.linear2 + (j * d_tiles + i) * kTileSize);
      }
    }
    from.vector(d, w.linear2_b);
    from.vector(d, w.norm1), from.vector(d, w.norm1_b);
    from.vector(d, w.norm3), from.vector(d, w.norm3_b);
    if (!a.pre_norm) {
      from.vector(d, w.norm2), from.vector(d, w.norm2_b);
    }
  }

  // out [outputs][n][64] = w x + bias (+ start), its tiles (and those of start) `out_tile` apart; columns(output tile)
  // are needed.
  template <class F>
  static void multiply(int64_t n, TiledRows<T> x, const Linear<T>& map, T* out, int64_t out_tile, F columns,
                       const T* start = nullptr) {
    for (int64_t i = 0; i < map.outputs; ++i, out += out_tile) {
      const T* const bias = map.bias + i * kTileWidth;
      const Start<T> from = start ? Start<T>{start + i * out_tile, kTileWidth, bias} : Start<T>{bias, 0, nullptr};
      multiply_tiles<T>(n, x, map.w + i * tiles_of(map.inputs) * kTileSize, from, out, columns(i));
    }
  }
};

}  // namespace
}  // namespace ORD_ISA
