// Networks of one hidden layer, forward and backward, rows [begin, end) or a chunk of them. A tile of up to 96 rows
// goes through 64 hidden units at a time, so no more of the hidden layer than that exists, and what it touches stays in
// the second cache; backward makes it again. Matrices lie in tiles of 64 columns (gemm/gemm_tile.h). Every sum runs in
// one order whatever the rows around it, and the gradients of weights are summed by chunks of rows that depend on the
// shapes alone, so no result depends on the number of threads.
#pragma once
#include "cpu/gemm/tile_product.h"
#include "cpu/ops/mlp_op_args.h"
#include "cpu/simd/dropout.h"
#include "cpu/simd/silu.h"

namespace ORD_ISA {
namespace {

template <class T>
struct MlpOp {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;
  static constexpr int64_t R = kMlpOpRows, C = kTileWidth;

  const MlpOpArgs& a;
  const int64_t d_tiles = tiles_of(a.D), h_tiles = tiles_of(a.H), o_tiles = tiles_of(a.O);
  const int64_t in_size = h_tiles * d_tiles * kTileSize, out_size = h_tiles * o_tiles * kTileSize;  // of a network
  const bool few_outputs = a.O <= kMlpFewOutputs, has_tables = a.tables[0].rows || a.tables[1].rows;
  // Of each network, [h_tiles][d_tiles or o_tiles] tiles.
  T* const in_dh = (T*)a.packed;              // [64 d][64 h]
  T* const in_hd = in_dh + a.G * in_size;     // [64 h][64 d]
  T* const out_oh = in_hd + a.G * in_size;    // [64 o][64 h]
  T* const out_ho = out_oh + a.G * out_size;  // [64 h][64 o]
  T* const b_in = out_ho + a.G * out_size;    // [G][h_tiles 64], zero-padded
  T* const b_out = b_in + a.G * h_tiles * C;  // [G][o_tiles 64]

  // ---- weights in tiles

  // The tile of w [n, k] from (j, i) on, to [64 k][64 n], zeros behind n.
  static void pack_tile(const T* w, int64_t n_stride, int64_t k_stride, int64_t n, int64_t k, T* to) {
    if (k_stride == 1) {
      return pack_tiles(w, n_stride, n, k, to);
    }
    for (int64_t i = 0; i < k; ++i) {
      __builtin_memset(to + i * C + n, 0, (C - n) * sizeof(T));
      __builtin_memcpy(to + i * C, w + i * k_stride, n * sizeof(T));
    }
  }

  void pack_biases(const void* from, int64_t width, T* to) const {
    const int64_t padded = tiles_of(width) * C;
    __builtin_memset(to, 0, a.G * padded * sizeof(T));
    for (int64_t g = 0; from && g < a.G; ++g) {
      __builtin_memcpy(to + g * padded, (const T*)from + g * width, width * sizeof(T));
    }
  }

  void pack_weights(bool backward) const {
    for (int64_t g = 0; g < a.G; ++g) {
      for (int64_t j = 0; j < h_tiles; ++j) {
        const int64_t units = tile_columns(a.H, j);
        for (int64_t i = 0; i < d_tiles; ++i) {
          const T* const w = (const T*)a.w_in + g * a.in_group + j * C * a.in_h + i * C * a.in_d;
          const int64_t at = g * in_size + (j * d_tiles + i) * kTileSize, n = tile_columns(a.D, i);
          pack_tile(w, a.in_h, a.in_d, units, n, in_dh + at);
          if (backward && a.dx) {
            pack_tile(w, a.in_d, a.in_h, n, units, in_hd + at);
          }
        }
        for (int64_t o = 0; o < o_tiles; ++o) {
          const T* const w = (const T*)a.w_out + g * a.out_group + o * C * a.out_o + j * C * a.out_h;
          const int64_t at = g * out_size + (j * o_tiles + o) * kTileSize, n = tile_columns(a.O, o);
          if (backward || few_outputs) {
            pack_tile(w, a.out_h, a.out_o, units, n, out_oh + at);
          } else {
            pack_tile(w, a.out_o, a.out_h, n, units, out_ho + at);
          }
        }
      }
    }
    pack_biases(a.b_in, a.H, b_in);
    pack_biases(a.b_out, a.O, b_out);
  }

  // ---- rows in tiles

  // Up to 64 elements, without a call where there are 64 or few.
  static inline __attribute__((always_inline)) void copy_columns(const T* from, int64_t columns, T* to) {
    if (columns == C) {
      __builtin_memcpy(to, from, C * sizeof(T));
    } else {
      for_each_vector<T>(columns, [&](int64_t d, int lanes) __attribute__((always_inline)) {
        store(to + d, load(from + d, lanes, from + d + lanes), lanes);
      });
    }
  }

  // n rows of `width` elements, `stride` apart -> [tiles][n][64]; behind `width` they may hold anything.
  static void load_rows(const T* from, int64_t stride, int64_t n, int64_t width, T* to) {
    for (int64_t i = 0; i < tiles_of(width); ++i) {
      const int64_t columns = tile_columns(width, i);
      for (int64_t r = 0; r < n; ++r, to += C) {
        copy_columns(from + r * stride + i * C, columns, to);
      }
    }
  }
  static void store_rows(const T* from, int64_t n, int64_t width, int64_t stride, T* to) {
    for (int64_t i = 0; i < tiles_of(width); ++i) {
      const int64_t columns = tile_columns(width, i);
      for (int64_t r = 0; r < n; ++r, from += C) {
        copy_columns(from, columns, to + r * stride + i * C);
      }
    }
  }

  // ---- the hidden layer

  // Units [64 j, 64 j + 64) of rows [r, r + n) before the activation, from their inputs x in tiles.
  void hidden(int64_t g, int64_t j, int64_t r, int64_t n, const T* x, T* z) const {
    const T* const bias = b_in + (g * h_tiles + j) * C;
    const T* const w = in_dh + g * in_size + j * d_tiles * kTileSize;
    if (!has_tables) {
      return multiply_tiles<T>(n, {x, n * C, a.D}, w, {bias}, z, C);
    }
    const int64_t units = tile_columns(a.H, j);
    for (int64_t i = 0; i < n; ++i) {
      T* const to = z + i * C;
      __builtin_memcpy(to, bias, C * sizeof(T));
      for (const MlpTable& table : a.tables) {
        if (table.rows) {
          const T* const row = (const T*)table.rows + table.row(r + i) * a.H + j * C;
          for_each_vector<T>(units, [&](int64_t d, int lanes) __attribute__((always_inline)) {
            store(to + d, load(to + d) + load(row + d, lanes, row + d + lanes));
          });
        }
      }
    }
    multiply_tiles<T>(n, {x, n * C, a.D}, w, {z, C}, z, C);
  }

  __attribute__((noinline)) static void multiply_by(T* __restrict h, const T* __restrict factors, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
      store(h + i, load(h + i) * load(factors + i));
    }
  }

  // z, and the gradient dh of the hidden layer -> what the outer weights multiply, and the gradient of z; in place.
  template <bool kDrop>
  __attribute__((noinline)) static void activate_backward(T* __restrict z, T* __restrict dh,
                                                          const T* __restrict factors, int64_t n) {
    for (int64_t i = 0; i < n; i += W) {
      const V v = load(z + i), s = logistic(v);
      V h = v * s, slope = s * (v * ((T)1 - s) + (T)1);
      if constexpr (kDrop) {
        const V f = load(factors + i);
        h *= f;
        slope *= f;
      }
      store(z + i, h);
      store(dh + i, slope * load(dh + i));
    }
  }

  // ---- forward

  // y [n, O], 64 columns a row, += the units of tile j.
  __attribute__((noinline)) void add_few_outputs(int64_t n, int64_t units, const T* h, const T* w, T* y) const {
    for (int64_t o = 0; o < a.O; ++o) {
      for (int64_t r = 0; r < n; ++r) {
        V sums[2] = {};
        for_each_vector_x2<T>(units, [&](int64_t d, int lanes, int s) __attribute__((always_inline)) {
          sums[s] += load(h + r * C + d, lanes, h + r * C + C) * load(w + o * C + d);
        });
        y[r * C + o] += sum(sums[0] + sums[1]);
      }
    }
  }

  void forward_rows(int64_t g, int64_t r, int64_t n, const T* x, T* y, T* h, T* factors) const {
    if (few_outputs) {
      for (int64_t i = 0; i < n; ++i) {
        __builtin_memcpy(y + i * C, b_out + g * C, a.O * sizeof(T));
      }
    }
    for (int64_t j = 0; j < h_tiles; ++j) {
      const int64_t units = tile_columns(a.H, j);
      hidden(g, j, r, n, x, h);
      silu_all(h, n * C);
      if (a.dropout.threshold) {
        dropout_factors(a.dropout, r, n, j, factors);
        multiply_by(h, factors, n * C);
      }
      if (few_outputs) {
        add_few_outputs(n, units, h, out_oh + g * out_size + j * kTileSize, y);
        continue;
      }
      for (int64_t o = 0; o < o_tiles; ++o) {
        T* const to = y + o * n * C;
        multiply_tile(
            n, TileProduct<T>{h, out_ho + g * out_size + (j * o_tiles + o) * kTileSize, units,
                              j ? to : b_out + (g * o_tiles + o) * C, j ? C : 0, nullptr, to, tile_columns(a.O, o)});
      }
    }
    store_rows(y, n, a.O, a.G * a.O, (T*)a.y + (r * a.G + g) * a.O);
  }

  void forward(int64_t begin, int64_t end, T* scratch) const {
    T *const x = scratch, *const y = x + d_tiles * R * C, *const h = y + o_tiles * R * C, *const factors = h + R * C;
    for (int64_t r = begin; r < end; r += R) {
      const int64_t n = end - r < R ? end - r : R;
      for (int64_t g = 0; g < a.G; ++g) {
        if (g == 0 || a.x_group) {
          load_rows((const T*)a.x + r * a.x_row + g * a.x_group, a.x_row, n, a.D, x);
        }
        forward_rows(g, r, n, x, y, h, factors);
      }
    }
  }

  // ---- backward

  // The gradients that a chunk of rows adds up.
  struct Partial {
    T *in, *out, *b_in, *b_out;  // as the weights' tiles [64 h][64 d], [64 o][64 h]; as the biases
  };
  Partial partial(int64_t chunk) const {
    T* const p = (T*)a.partial + chunk * mlp_op_partial(a);
    T* const out = p + a.G * in_size;
    T* const b = out + a.G * out_size;
    return {p, out, b, b + a.G * h_tiles * C};
  }

  // sums [64] += the sums over n rows of x [n, 64].
  static void add_columns(const T* x, int64_t n, T* sums) {
    for (int64_t d = 0; d < C; d += W) {
      V s = load(sums + d);
      for (int64_t r = 0; r < n; ++r) {
        s += load(x + r * C + d);
      }
      store(sums + d, s);
    }
  }

  // The gradients of the tables' rows, from dz [n, 64] of hidden tile j.
  void add_table_rows(int64_t chunk, int64_t j, int64_t r, int64_t n, const T* dz) const {
    for (int t = 0; t < 2; ++t) {
      T* const sums = (T*)a.slots[t];
      for (int64_t i = 0; sums && i < n; ++i) {
        T* const to = sums + (a.first_slot[t][chunk] + a.slot[t][r + i]) * h_tiles * C + j * C;
        for (int64_t d = 0; d < C; d += W) {
          store(to + d, load(to + d) + load(dz + i * C + d));
        }
      }
    }
  }

  struct Block {
    int64_t chunk, r, n;
    const T *x, *g;  // inputs and gradients of outputs in tiles
    T *dx, *h, *dh, *factors;
    bool first;  // dx is still to be started
  };

  // Hidden tile j of network g.
  void backward_units(const Block& b, int64_t g, int64_t j) const {
    static const T zeros[kTileWidth] = {};
    const int64_t n = b.n, units = tile_columns(a.H, j);
    const Partial p = partial(b.chunk);
    hidden(g, j, b.r, n, b.x, b.h);
    multiply_tiles<T>(n, {b.g, n * C, a.O}, out_oh + g * out_size + j * o_tiles * kTileSize, {zeros}, b.dh, C);
    if (a.dropout.threshold) {
      dropout_factors(a.dropout, b.r, n, j, b.factors);
      activate_backward<true>(b.h, b.dh, b.factors, n * C);
    } else {
      activate_backward<false>(b.h, b.dh, nullptr, n * C);
    }
    for (int64_t o = 0; a.dw_out && o < o_tiles; ++o) {
      T* const to = p.out + g * out_size + (j * o_tiles + o) * kTileSize;
      multiply_tile_across(tile_columns(a.O, o), TileProduct<T>{b.g + o * n * C, b.h, n, to, C, nullptr, to, units});
    }
    for (int64_t i = 0; i < d_tiles; ++i) {
      const int64_t at = g * in_size + (j * d_tiles + i) * kTileSize, columns = tile_columns(a.D, i);
      if (a.dw_in) {
        multiply_tile_across(units,
                             TileProduct<T>{b.dh, b.x + i * n * C, n, p.in + at, C, nullptr, p.in + at, columns});
      }
      if (a.dx) {
        const bool start = b.first && j == 0;
        T* const to = b.dx + i * n * C;
        multiply_tile(n,
                      TileProduct<T>{b.dh, in_hd + at, units, start ? zeros : to, start ? 0 : C, nullptr, to, columns});
      }
    }
    if (a.db_in) {
      add_columns(b.dh, n, p.b_in + (g * h_tiles + j) * C);
    }
    add_table_rows(b.chunk, j, b.r, n, b.dh);
  }

  void backward(int64_t chunk, T* scratch) const {
    T *const x = scratch, *const dx = x + d_tiles * R * C, *const g = dx + d_tiles * R * C;
    T *const h = g + o_tiles * R * C, *const dh = h + R * C, *const factors = dh + R * C;
    const int64_t begin = chunk * a.chunk_rows, end = begin + a.chunk_rows < a.R ? begin + a.chunk_rows : a.R;
    const Partial p = partial(chunk);
    __builtin_memset(p.in, 0, mlp_op_partial(a) * sizeof(T));
    for (int t = 0; t < 2; ++t) {
      if (T* const slots = (T*)a.slots[t]) {
        const int64_t first = a.first_slot[t][chunk], row = h_tiles * C;
        __builtin_memset(slots + first * row, 0, (a.first_slot[t][chunk + 1] - first) * row * sizeof(T));
      }
    }
    for (int64_t r = begin; r < end; r += R) {
      const int64_t n = end - r < R ? end - r : R;
      for (int64_t k = 0; k < a.G; ++k) {
        if (k == 0 || a.x_group) {
          load_rows((const T*)a.x + r * a.x_row + k * a.x_group, a.x_row, n, a.D, x);
        }
        load_rows((const T*)a.g + (r * a.G + k) * a.O, a.G * a.O, n, a.O, g);
        for (int64_t o = 0; a.db_out && o < o_tiles; ++o) {
          add_few_columns(g + o * n * C, n, tile_columns(a.O, o), p.b_out + (k * o_tiles + o) * C);
        }
        for (int64_t j = 0; j < h_tiles; ++j) {
          backward_units({chunk, r, n, x, g, dx, h, dh, factors, k == 0 || a.x_group != 0}, k, j);
        }
        if (a.dx && (a.x_group || k + 1 == a.G)) {
          const int64_t networks = a.x_group ? a.G : 1;
          store_rows(dx, n, a.D, networks * a.D, (T*)a.dx + (r * networks + (a.x_group ? k : 0)) * a.D);
        }
      }
    }
  }

  // add_columns of the first `columns` ones alone: behind them may lie anything.
  static void add_few_columns(const T* x, int64_t n, int64_t columns, T* sums) {
    for_each_vector<T>(columns, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      V s = load(sums + d, lanes, sums + C);
      for (int64_t r = 0; r < n; ++r) {
        s += load(x + r * C + d, lanes, x + n * C);
      }
      store(sums + d, s, lanes);
    });
  }

  // ---- the chunks' gradients added up, in order

  // to [n] = the sums over the chunks of what lies at p in each.
  void sum_chunks(const T* p, int64_t n, T* to) const {
    for_each_vector<T>(n, [&](int64_t d, int lanes) __attribute__((always_inline)) {
      V s = load(p + d, lanes, p + d + lanes);
      for (int64_t c = 1; c < a.chunks; ++c) {
        const T* const q = p + c * mlp_op_partial(a) + d;
        s += load(q, lanes, q + lanes);
      }
      store(to + d, s, lanes);
    });
  }

  void reduce() const {
    const Partial p = partial(0);
    for (int64_t g = 0; g < a.G; ++g) {
      for (int64_t h = 0; a.dw_in && h < a.H; ++h) {
        for (int64_t i = 0; i < d_tiles; ++i) {
          sum_chunks(p.in + g * in_size + (h / C * d_tiles + i) * kTileSize + h % C * C, tile_columns(a.D, i),
                     (T*)a.dw_in + (g * a.H + h) * a.D + i * C);
        }
      }
      for (int64_t o = 0; a.dw_out && o < a.O; ++o) {
        for (int64_t j = 0; j < h_tiles; ++j) {
          sum_chunks(p.out + g * out_size + (j * o_tiles + o / C) * kTileSize + o % C * C, tile_columns(a.H, j),
                     (T*)a.dw_out + (g * a.O + o) * a.H + j * C);
        }
      }
      if (a.db_in) {
        sum_chunks(p.b_in + g * h_tiles * C, a.H, (T*)a.db_in + g * a.H);
      }
      if (a.db_out) {
        sum_chunks(p.b_out + g * o_tiles * C, a.O, (T*)a.db_out + g * a.O);
      }
    }
    for (int t = 0; t < 2; ++t) {
      if (T* const to = (T*)a.dtable[t]) {
        __builtin_memset(to, 0, a.tables[t].T * a.H * sizeof(T));
        for (int64_t s = 0; s < a.first_slot[t][a.chunks]; ++s) {
          const T* const from = (const T*)a.slots[t] + s * h_tiles * C;
          T* const row = to + a.slot_row[t][s] * a.H;
          for_each_vector<T>(a.H, [&](int64_t d, int lanes) __attribute__((always_inline)) {
            store(row + d, load(row + d, lanes, row + d + lanes) + load(from + d, lanes, from + d + lanes), lanes);
          });
        }
      }
    }
  }
};

template <class F>
static void with_mlp_op(const MlpOpArgs& a, const F& f) {
  a.is_double ? f(MlpOp<double>{a}) : f(MlpOp<float>{a});
}

}  // namespace

// Once per call.
void mlp_op_pack(const MlpOpArgs& a, bool backward) {
  with_mlp_op(a, [&](const auto& op) { op.pack_weights(backward); });
}
void mlp_op_forward(const MlpOpArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.is_double ? MlpOp<double>{a}.forward(begin, end, (double*)scratch)
              : MlpOp<float>{a}.forward(begin, end, (float*)scratch);
}
void mlp_op_backward(const MlpOpArgs& a, int64_t begin, int64_t end, void* scratch) {
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    a.is_double ? MlpOp<double>{a}.backward(chunk, (double*)scratch) : MlpOp<float>{a}.backward(chunk, (float*)scratch);
  }
}
void mlp_op_reduce(const MlpOpArgs& a) {
  with_mlp_op(a, [&](const auto& op) { op.reduce(); });
}

}  // namespace ORD_ISA
