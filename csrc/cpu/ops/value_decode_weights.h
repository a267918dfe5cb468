// A decoder's weights in tiles, as the value_decode kernel reads them: made once per call.
#pragma once
#include "cpu/gemm/gemm_tile.h"
#include "cpu/ops/value_decode_args.h"

namespace ORD_ISA {
namespace {

template <class T>
struct LayerOf {  // matrices in tiles, [tiles of outputs][tiles of inputs]; linear2 as [tiles of inputs][tiles of
                  // outputs]
  T *qkv, *out, *cross_value, *cross_out, *linear1, *linear2;
  T *qkv_b, *out_b, *cross_value_b, *cross_out_b, *linear1_b, *linear2_b, *norm1, *norm1_b, *norm2, *norm2_b, *norm3,
      *norm3_b;
};

template <class T>
struct PackedDecoder {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;
  static constexpr int64_t tile = kTileWidth * kTileWidth;
  const DecodeArgs& a;
  const int64_t nb = tiles_of(a.d), fb = tiles_of(a.F), vb = tiles_of(a.V), mb = tiles_of(a.M);
  // shared
  T* const layers = (T*)a.shared;
  T* const head = layers + a.L * decode_layer(a);                // [vb][nb] tiles
  T* const embedding = head + tile * nb * vb;                    // [nb][vb 64][64]
  T* const project = embedding + tile * nb * vb;                 // [nb][mb] tiles
  T* const head_b = project + (a.project ? tile * nb * mb : 0);  // -inf behind V
  T* const values = head_b + vb * kTileWidth;
  T* const project_b = values + vb * kTileWidth;
  T* const last = project_b + nb * kTileWidth;            // weight, bias
  T* const position = last + 2 * nb * kTileWidth;         // [steps][nb 64]
  T* const table = position + a.steps * nb * kTileWidth;  // [3 nb][V][64]
  const T eps = (T)a.eps;

  LayerOf<T> layer(int64_t i) const {
    LayerOf<T> w;
    T* at = layers + i * decode_layer(a);
    const auto take = [&](int64_t n) { return (at += n) - n; };
    const int64_t dd = tile * nb * nb, df = tile * nb * fb;
    w.qkv = take(3 * dd), w.out = take(dd), w.cross_value = take(dd), w.cross_out = take(dd), w.linear1 = take(df),
    w.linear2 = take(df);
    w.qkv_b = take(3 * nb * kTileWidth);
    T** const vectors[] = {&w.out_b,   &w.cross_value_b, &w.cross_out_b, &w.linear2_b, &w.norm1,
                           &w.norm1_b, &w.norm2,         &w.norm2_b,     &w.norm3,     &w.norm3_b};
    for (T** p : vectors) {
      *p = take(nb * kTileWidth);
    }
    w.linear1_b = take(fb * kTileWidth);
    return w;
  }

  static void copy_padded(const void* from, int64_t n, T* to, T behind = 0) {
    __builtin_memcpy(to, from, n * sizeof(T));
    for (int64_t i = n; i < tiles_of(n) * kTileWidth; ++i) {
      to[i] = behind;
    }
  }

  // Once per call: everything in tiles, zeros behind.
  void prepare() const {
    const void* const* from = a.weights;
    const auto next = [&] { return (const T*)*from++; };
    const int64_t d = a.d;
    const T *const E = next(), *const head_w = next(), *const head_bias = next();
    pack(head_w, d, a.V, d, head);
    copy_padded(head_bias, a.V, head_b, -(T)__builtin_inf());
    copy_padded(a.values, a.V, values);
    for (int64_t i = 0; i < nb; ++i) {
      for (int64_t v = 0; v < a.V; ++v) {
        T* const to = embedding + (i * vb * kTileWidth + v) * kTileWidth;
        __builtin_memset(to, 0, kTileWidth * sizeof(T));
        __builtin_memcpy(to, E + v * d + i * kTileWidth, tile_columns(d, i) * sizeof(T));
      }
    }
    for (int64_t l = 0; l < a.L; ++l) {
      const LayerOf<T> w = layer(l);
      const T *const qkv = next(), *const qkv_b = next();
      for (int64_t p = 0; p < 3; ++p) {
        pack(qkv + p * d * d, d, d, d, w.qkv + p * tile * nb * nb),
            copy_padded(qkv_b + p * d, d, w.qkv_b + p * nb * kTileWidth);
      }
      pack(next(), d, d, d, w.out), copy_padded(next(), d, w.out_b);
      pack(next(), d, d, d, w.cross_value), copy_padded(next(), d, w.cross_value_b);
      pack(next(), d, d, d, w.cross_out), copy_padded(next(), d, w.cross_out_b);
      pack(next(), d, a.F, d, w.linear1), copy_padded(next(), a.F, w.linear1_b);
      const T* const linear2 = next();
      for (int64_t j = 0; j < fb; ++j) {
        for (int64_t i = 0; i < nb; ++i) {
          pack(linear2 + i * kTileWidth * a.F + j * kTileWidth, a.F, tile_columns(d, i), tile_columns(a.F, j),
               w.linear2 + (j * nb + i) * tile);
        }
      }
      copy_padded(next(), d, w.linear2_b);
      copy_padded(next(), d, w.norm1), copy_padded(next(), d, w.norm1_b), copy_padded(next(), d, w.norm3),
          copy_padded(next(), d, w.norm3_b);
      if (!a.pre) {
        copy_padded(next(), d, w.norm2), copy_padded(next(), d, w.norm2_b);
      }
    }
    if (a.project) {
      pack(next(), a.M, d, a.M, project), copy_padded(next(), d, project_b);
    }
    if (a.pre) {
      copy_padded(next(), d, last), copy_padded(next(), d, last + nb * kTileWidth);
    }
    for (int64_t t = 0; a.position && t < a.steps; ++t) {
      copy_padded((const T*)a.position + t * d, d, position + t * nb * kTileWidth);
    }
    if (a.table) {
      multiply(a.V, embedding, vb * tile, d, layer(0).qkv, layer(0).qkv_b, 3 * nb, table, a.V * kTileWidth,
               [&](int64_t i) { return tile_columns(d, i % nb); });
    }
  }

  // c [outputs][n][64] = w a + bias (+ p), tiles of `a` and `c` at these distances.
  template <class F>
  void multiply(int64_t n, const T* in, int64_t in_tile, int64_t inputs, const T* w, const T* bias, int64_t outputs,
                T* out, int64_t out_tile, F columns, const T* p = nullptr) const {
    const int64_t kb = tiles_of(inputs);
    for (int64_t i = 0; i < outputs; ++i, out += out_tile) {
      for (int64_t k = 0; k < kb; ++k) {
        const T* const start = k ? out : p ? p + i * out_tile : bias + i * kTileWidth;
        multiply_tile<T>(n, in + k * in_tile, w + (i * kb + k) * tile, tile_columns(inputs, k), start,
                         k || p ? kTileWidth : 0, !k && p ? bias + i * kTileWidth : nullptr, out, columns(i));
      }
    }
  }
  int64_t of_d(int64_t i) const { return tile_columns(a.d, i); }
};

}  // namespace
}  // namespace ORD_ISA
