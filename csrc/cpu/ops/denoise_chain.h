// Whole reverse chains of a one-layer denoiser. A block of up to 48 rows goes through all steps before the next block,
// so its state, its projected condition and the weights stay in cache: 98 + 128 KB for D = 64 and 256 hidden units.
//
// Matrices lie in tiles of 64 columns, [tiles][rows][64], so that every stride is a constant. One step of a block:
//   for each 64 hidden units: h = time + cond + W_x x, h = silu(h), out += W_o h;  then x0 and the next x from x and
//   out.
// Every sum runs over its inputs in one order whatever the number of rows, so a row's bits do not depend on its block.
//
// Weights in bf16 may be multiplied in pairs (gemm_pairs.h): x and h are then rounded to bf16 where they enter a
// product, and the state, the sums and the condition stay in fp32. All of h is made before W_o, so that a sum stays in
// its register.
#pragma once
#include "cpu/gemm/gemm_pairs.h"
#include "cpu/gemm/mlp_tiles.h"
#include "cpu/ops/denoise_chain_args.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <class T, bool kPairs = false>
struct DenoiseChain : Mlp<T, DenoiseChainArgs> {
  using Base = Mlp<T, DenoiseChainArgs>;
  using V = typename Traits<T>::V;
  static constexpr int64_t R = kMlpRows;
  static constexpr int64_t kCoefficients = 8;

  using Base::a, Base::d_tiles, Base::h_tiles, Base::w_in, Base::w_out, Base::times, Base::b_out;

  // A block of n rows from row `first` on, matrices in tiles.
  struct Block {
    int64_t first, n;
    T *x, *out;   // [d_tiles][n][64]: the state, the denoiser's output
    T *cond, *h;  // [h_tiles][n][64]: the projected condition; [n][64]: hidden units
    T* noise;     // [n, D], padded by a vector
    uint32_t *x_pairs, *h_pairs;
  };

#if ORD_BYTES == 64 && defined(__x86_64__)
  static constexpr int64_t kPairTile = kTileSize / 2, kPairRow = kTileWidth / 2;  // words

  uint32_t* in_pairs() const { return (uint32_t*)((T*)a.packed + mlp_packed(a)); }  // [h_tiles][d_tiles] tiles
  uint32_t* out_pairs() const { return in_pairs() + h_tiles * d_tiles * kPairTile; }

  void pack_weights(T* scratch) const {
    Base::pack_weights(scratch);
    if constexpr (kPairs) {
      for (int64_t j = 0; j < h_tiles; ++j) {
        for (int64_t i = 0; i < d_tiles; ++i) {
          const int64_t at = j * d_tiles + i;
          pack_pairs(w_in + at * kTileSize, tile_columns(a.D, i), in_pairs() + at * kPairTile);
          pack_pairs(w_out + at * kTileSize, tile_columns(a.H, j), out_pairs() + at * kPairTile);
        }
      }
    }
  }

  // The same as `denoise`, with products of pairs.
  void denoise_pairs(const Block& k, int64_t s) const {
    const int64_t n = k.n, last_d = (tile_columns(a.D, d_tiles - 1) + 1) / 2,
                  last_h = (tile_columns(a.H, h_tiles - 1) + 1) / 2;
    to_pairs(k.x, d_tiles * n * kTileWidth, k.x_pairs);
    for (int64_t j = 0; j < h_tiles; ++j) {
      multiply_pairs<true>(n,
                           {k.x_pairs, in_pairs() + j * d_tiles * kPairTile, n * kPairRow, kPairTile, d_tiles, last_d},
                           k.cond + j * n * kTileWidth, kTileWidth, times + (s * h_tiles + j) * kTileWidth,
                           k.h_pairs + j * n * kPairRow);
    }
    for (int64_t i = 0; i < d_tiles; ++i) {
      multiply_pairs<false>(
          n, {k.h_pairs, out_pairs() + i * kPairTile, n * kPairRow, d_tiles * kPairTile, h_tiles, last_h},
          b_out + i * kTileWidth, 0, nullptr, k.out + i * n * kTileWidth);
    }
  }
#endif

  // out = the denoiser at (x, step s).
  void denoise(const Block& k, int64_t s) const {
    const int64_t n = k.n, rows = n * kTileWidth;
    for (int64_t jj = 0; jj < h_tiles; ++jj) {
      const int64_t j = s & 1 ? h_tiles - 1 - jj : jj;  // back and forth: what was used last is in the nearest cache
      const int64_t units = tile_columns(a.H, j);
      multiply_tiles<T>(n, {k.x, rows, a.D}, w_in + j * d_tiles * kTileSize,
                        {k.cond + j * rows, kTileWidth, times + (s * h_tiles + j) * kTileWidth}, k.h, units);
      silu_all(k.h, rows);
      for (int64_t i = 0; i < d_tiles; ++i) {
        T* const out = k.out + i * rows;
        multiply_tile(
            n, TileProduct<T>{k.h, w_out + (j * d_tiles + i) * kTileSize, units, jj ? out : b_out + i * kTileWidth,
                              jj ? kTileWidth : 0, nullptr, out, tile_columns(a.D, i)});
      }
    }
  }

  // The next x by the coefficients c; the estimate of x0 to x0_to [n], rows `x0_row` apart, unless null.
  template <bool kNoise>
  __attribute__((noinline)) void update(const Block& k, const double* c, T* x0_to, int64_t x0_row) const {
    const V c0 = V{} + (T)c[0], c1 = V{} + (T)c[1], d0 = V{} + (T)c[2], d1 = V{} + (T)c[3], d2 = V{} + (T)c[4],
            sigma = V{} + (T)c[5];
    const V limit = V{} + (T)a.clip;
    const bool only_output = c[0] == 0 && c[1] == 1;  // 0 x would make NaN of an infinite x
    T* x = k.x;
    const T* out = k.out;
    for (int64_t i = 0; i < d_tiles; ++i) {
      for (int64_t r = 0; r < k.n; ++r, x += kTileWidth, out += kTileWidth) {
        for_each_vector<T>(tile_columns(a.D, i), [&](int64_t d, int lanes) __attribute__((always_inline)) {
          const V xv = load(x + d), ov = load(out + d);
          V x0 = only_output ? ov : c0 * xv + c1 * ov;
          x0 = x0 < -limit ? -limit : x0;
          x0 = x0 > limit ? limit : x0;
          V y = d0 * x0 + d1 * xv + d2 * ov;
          if constexpr (kNoise) {
            y += sigma * load(k.noise + r * a.D + i * kTileWidth + d);
          }
          store(x + d, y);
          if (x0_to) {
            store(x0_to + r * x0_row + i * kTileWidth + d, x0, lanes);
          }
        });
      }
    }
  }

  // Fills k.noise with that of step s. True where there is any.
  bool set_noise(const Block& k, int64_t s) const {
    if (a.noise) {
      __builtin_memcpy(k.noise, (const T*)a.noise + (s * a.B + k.first) * a.D, k.n * a.D * sizeof(T));
      return true;
    }
    if (!a.generate_noise) {
      return false;
    }
    generate_noise(a.row_ids + k.first, a.draw_ids ? a.draw_ids + k.first : nullptr, a.seed,
                   a.step_coefficients[kCoefficients * s + 6], a.D, k.n, k.noise);
    return true;
  }

  Block bind_scratch(int64_t first, int64_t n, T* scratch) const {
    Block k;
    k.first = first;
    k.n = n;
    k.x = scratch;
    k.out = k.x + R * d_tiles * kTileWidth;
    k.cond = k.out + R * d_tiles * kTileWidth;
    k.h = k.cond + R * h_tiles * kTileWidth;
    k.noise = k.h + R * kTileWidth;
    k.x_pairs = (uint32_t*)(scratch + denoise_chain_unpaired_scratch(a));
    k.h_pairs = k.x_pairs + R * d_tiles * kTileWidth / 2;
    return k;
  }

  // Rows [first, first + n) through all steps.
  void run_block(int64_t first, int64_t n, T* scratch) const {
    const Block k = bind_scratch(first, n, scratch);
    T* const conditions = k.noise + R * a.D + kTileWidth;  // as they come, in tiles
    to_tiles((const T*)a.x + first * a.D, n, a.D, k.x);
    to_tiles((const T*)a.cond + first * a.C, n, a.C, conditions);
    Base::project_conditions(n, conditions, [&](int64_t j) { return k.cond + j * n * kTileWidth; });
    for (int64_t s = 0; s < a.S; ++s) {
      if constexpr (kPairs) {
        denoise_pairs(k, s);
      } else {
        denoise(k, s);
      }
      const double* const c = a.step_coefficients + kCoefficients * s;
      T* const x0_to = c[7] < 0 ? nullptr : (T*)a.states + (first * a.K + (int64_t)c[7]) * a.D;
      if (c[5] != 0 && set_noise(k, s)) {
        update<true>(k, c, x0_to, a.K * a.D);
      } else {
        update<false>(k, c, x0_to, a.K * a.D);
      }
    }
    for (int64_t i = 0; i < d_tiles; ++i) {
      for (int64_t r = 0; r < n; ++r) {
        __builtin_memcpy((T*)a.x_0 + (first + r) * a.D + i * kTileWidth, k.x + (i * n + r) * kTileWidth,
                         tile_columns(a.D, i) * sizeof(T));
      }
    }
  }

  void run(int64_t begin, int64_t end, T* scratch) const {
    const int64_t blocks = (end - begin + R - 1) / R;
    const auto start = [&](int64_t i) {  // as even as can be, in strips of six rows
      const int64_t at = (end - begin) * i / blocks;
      return i < blocks ? begin + (at + 5) / 6 * 6 : end;
    };
    for (int64_t i = 0; i < blocks; ++i) {
      if (start(i) < start(i + 1)) {
        run_block(start(i), start(i + 1) - start(i), scratch);
      }
    }
  }
};

// Calls f with the chain of these arguments.
template <class F>
static void with_chain(const DenoiseChainArgs& a, void* scratch, F f) {
  if (a.is_double) {
    return f(DenoiseChain<double>{{a}}, (double*)scratch);
  }
#if ORD_BYTES == 64 && defined(__x86_64__)
  if (a.pairs) {
    return f(DenoiseChain<float, true>{{a}}, (float*)scratch);
  }
#endif
  f(DenoiseChain<float>{{a}}, (float*)scratch);
}

}  // namespace

void denoise_chain_pack(const DenoiseChainArgs& a, void* scratch) {
  with_chain(a, scratch, [](const auto& chain, auto* s) { chain.pack_weights(s); });
}
void denoise_chain(const DenoiseChainArgs& a, int64_t begin, int64_t end, void* scratch) {
  with_chain(a, scratch, [&](const auto& chain, auto* s) { chain.run(begin, end, s); });
}

}  // namespace ORD_ISA
