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
struct Chain : Mlp<T, ChainArgs> {
  using Base = Mlp<T, ChainArgs>;
  using V = typename Traits<T>::V;
  static constexpr int64_t R = kMlpRows;

  using Base::a, Base::Db, Base::Hb, Base::Cb, Base::w_in, Base::w_out, Base::w_cond, Base::times, Base::bias;

#if ORD_BYTES == 64 && defined(__x86_64__)
  static constexpr int64_t kTile = kTileWidth * kTileWidth / 2, kRow = kTileWidth / 2;  // words

  uint32_t* in_pairs() const { return (uint32_t*)((T*)a.shared + mlp_shared(a)); }  // [Hb][Db] tiles
  uint32_t* out_pairs() const { return in_pairs() + Hb * Db * kTile; }

  void prepare(T* scratch) const {
    Base::prepare(scratch);
    if constexpr (kPairs) {
      for (int64_t j = 0; j < Hb; ++j) {
        for (int64_t i = 0; i < Db; ++i) {
          const int64_t at = j * Db + i;
          pack_pairs(w_in + at * kTileWidth * kTileWidth, tile_columns(a.D, i), in_pairs() + at * kTile);
          pack_pairs(w_out + at * kTileWidth * kTileWidth, tile_columns(a.H, j), out_pairs() + at * kTile);
        }
      }
    }
  }

  // `denoise` with room for x and h in pairs.
  void denoise_pairs(int64_t n, int64_t s, const T* x, const T* cond, T* room, T* out) const {
    uint32_t *const x_pairs = (uint32_t*)room, *const h_pairs = x_pairs + R * Db * kRow;
    to_pairs(x, Db * n * kTileWidth, x_pairs);
    for (int64_t j = 0; j < Hb; ++j) {
      multiply_pairs<true>(
          n, {x_pairs, in_pairs() + j * Db * kTile, n * kRow, kTile, Db, (tile_columns(a.D, Db - 1) + 1) / 2},
          cond + j * n * kTileWidth, kTileWidth, times + (s * Hb + j) * kTileWidth, h_pairs + j * n * kRow);
    }
    for (int64_t i = 0; i < Db; ++i) {
      multiply_pairs<false>(
          n, {h_pairs, out_pairs() + i * kTile, n * kRow, Db * kTile, Hb, (tile_columns(a.H, Hb - 1) + 1) / 2},
          bias + i * kTileWidth, 0, nullptr, out + i * n * kTileWidth);
    }
  }
#endif

  // out [Db][n][64] = the denoiser at (x, step s); x and out in tiles, cond [Hb][n][64] projected.
  void denoise(int64_t n, int64_t s, const T* x, const T* cond, T* h, T* out) const {
    const int64_t tile = kTileWidth * kTileWidth, rows = n * kTileWidth;
    for (int64_t jj = 0; jj < Hb; ++jj) {
      const int64_t j = s & 1 ? Hb - 1 - jj : jj;  // back and forth: what was used last is still in the nearest cache
      for (int64_t i = 0; i < Db; ++i) {
        multiply_tile<T>(n, x + i * rows, w_in + (j * Db + i) * tile, tile_columns(a.D, i), i ? h : cond + j * rows,
                         kTileWidth, i ? nullptr : times + (s * Hb + j) * kTileWidth, h, tile_columns(a.H, j));
      }
      silu_all(h, rows);
      for (int64_t i = 0; i < Db; ++i) {
        multiply_tile<T>(n, h, w_out + (j * Db + i) * tile, tile_columns(a.H, j),
                         jj ? out + i * rows : bias + i * kTileWidth, jj ? kTileWidth : 0, nullptr, out + i * rows,
                         tile_columns(a.D, i));
      }
    }
  }

  template <bool kNoise>
  __attribute__((noinline)) void update(int64_t n, const double* c, T* x, const T* out, const T* noise, T* keep,
                                        int64_t keep_row) const {
    const V c0 = V{} + (T)c[0], c1 = V{} + (T)c[1], d0 = V{} + (T)c[2], d1 = V{} + (T)c[3], d2 = V{} + (T)c[4],
            sigma = V{} + (T)c[5];
    const V limit = V{} + (T)a.clip;
    const bool only_output = c[0] == 0 && c[1] == 1;  // 0 x would make NaN of an infinite x
    for (int64_t i = 0; i < Db; ++i) {
      for (int64_t r = 0; r < n; ++r, x += kTileWidth, out += kTileWidth) {
        for_each_vector<T>(tile_columns(a.D, i), [&](int64_t d, int lanes) __attribute__((always_inline)) {
          const V xv = load(x + d), ov = load(out + d);
          V est = only_output ? ov : c0 * xv + c1 * ov;
          est = est < -limit ? -limit : est;
          est = est > limit ? limit : est;
          V y = d0 * est + d1 * xv + d2 * ov;
          if constexpr (kNoise) {
            y += sigma * load(noise + r * a.D + i * kTileWidth + d);
          }
          store(x + d, y);
          if (keep) {
            store(keep + r * keep_row + i * kTileWidth + d, est, lanes);
          }
        });
      }
    }
  }

  // The noise of step s, [n, D] and room to read behind. True where there is any.
  bool noise_of(int64_t s, int64_t r0, int64_t n, T* to) const {
    if (a.noise) {
      __builtin_memcpy(to, (const T*)a.noise + (s * a.B + r0) * a.D, n * a.D * sizeof(T));
      return true;
    }
    if (!a.made) {
      return false;
    }
    generate_noise(a.row_ids + r0, a.draw_ids ? a.draw_ids + r0 : nullptr, a.seed, a.numbers[8 * s + 6], a.D, n, to);
    return true;
  }

  // Rows [r0, r0 + n) through all steps.
  void block(int64_t r0, int64_t n, T* scratch) const {
    const int64_t rows = n * kTileWidth;
    T *const x = scratch, *const out = x + R * Db * kTileWidth, *const cond = out + R * Db * kTileWidth,
             *const h = cond + R * Hb * kTileWidth, *const noise = h + R * kTileWidth;
    T* const given = noise + R * a.D + kTileWidth;  // the condition as it comes, in tiles
    to_tiles((const T*)a.x + r0 * a.D, n, a.D, x);
    to_tiles((const T*)a.cond + r0 * a.C, n, a.C, given);
    static const T zeros[kTileWidth] = {};
    for (int64_t j = 0; j < Hb; ++j) {
      for (int64_t i = 0; i < Cb; ++i) {
        multiply_tile<T>(n, given + i * rows, w_cond + (j * Cb + i) * kTileWidth * kTileWidth, tile_columns(a.C, i),
                         i ? cond + j * rows : zeros, i ? kTileWidth : 0, nullptr, cond + j * rows, kTileWidth);
      }
    }
    for (int64_t s = 0; s < a.S; ++s) {
      const double* c = a.numbers + 8 * s;
      if constexpr (kPairs) {
        denoise_pairs(n, s, x, cond, scratch + chain_scratch_alone(a), out);
      } else {
        denoise(n, s, x, cond, h, out);
      }
      T* const keep = c[7] < 0 ? nullptr : (T*)a.states + (r0 * a.K + (int64_t)c[7]) * a.D;
      if (c[5] != 0 && noise_of(s, r0, n, noise)) {
        update<true>(n, c, x, out, noise, keep, a.K * a.D);
      } else {
        update<false>(n, c, x, out, noise, keep, a.K * a.D);
      }
    }
    for (int64_t i = 0; i < Db; ++i) {
      for (int64_t r = 0; r < n; ++r) {
        __builtin_memcpy((T*)a.x_0 + (r0 + r) * a.D + i * kTileWidth, x + (i * n + r) * kTileWidth,
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
        block(start(i), start(i + 1) - start(i), scratch);
      }
    }
  }
};

}  // namespace

// Calls f with the chain of these arguments.
template <class F>
static void with_chain(const ChainArgs& a, void* scratch, F f) {
  if (a.is_double) {
    return f(Chain<double>{{a}}, (double*)scratch);
  }
#if ORD_BYTES == 64 && defined(__x86_64__)
  if (a.pairs) {
    return f(Chain<float, true>{{a}}, (float*)scratch);
  }
#endif
  f(Chain<float>{{a}}, (float*)scratch);
}

void denoise_chain_prepare(const ChainArgs& a, void* scratch) {
  with_chain(a, scratch, [](const auto& chain, auto* s) { chain.prepare(s); });
}
void denoise_chain(const ChainArgs& a, int64_t begin, int64_t end, void* scratch) {
  with_chain(a, scratch, [&](const auto& chain, auto* s) { chain.run(begin, end, s); });
}

}  // namespace ORD_ISA
