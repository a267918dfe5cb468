// Whole reverse chains of a one-layer denoiser. A block of up to 48 rows goes through all steps before the next block, so its
// state, its projected condition and the weights stay in cache: 98 + 128 KB for D = 64 and 256 hidden units.
//
// Matrices lie in tiles of 64 columns, [tiles][rows][64], so that every stride is a constant. One step of a block:
//   for each 64 hidden units: h = time + cond + W_x x, h = silu(h), out += W_o h;  then x0 and the next x from x and out.
// Every sum runs over its inputs in one order whatever the number of rows, so a row's bits do not depend on its block.
#pragma once
#include "common/vmath.h"
#include "cpu/kernels/denoise_chain_args.h"
#include "cpu/kernels/gemm_tile.h"
#include "cpu/kernels/silu.h"

namespace ORD_ISA {
void random_normal(const int64_t* rows, const int64_t* draws, int64_t draw, int64_t seed, int64_t step, int64_t width, float* out,
                   int64_t begin, int64_t end);  // kernels/rng.h
namespace {

template <class T>
struct Chain {
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;
  static constexpr int64_t R = kChainRows;

  const ChainArgs& a;
  const int64_t Db = tiles_of(a.D), Hb = tiles_of(a.H), Cb = tiles_of(a.C), Eb = tiles_of(a.E);
  T* const w_in = (T*)a.shared;                     // [Hb][Db] tiles
  T* const w_out = w_in + Hb * Db * kT * kT;        // [Hb][Db]: of one block of hidden units side by side
  T* const w_cond = w_out + Hb * Db * kT * kT;      // [Hb][Cb]
  T* const w_time = w_cond + Hb * Cb * kT * kT;     // [Hb][Eb]
  T* const times = w_time + Hb * Eb * kT * kT;      // [S][Hb 64]
  T* const bias = times + a.S * Hb * kT;            // [Db 64], zeros behind
  T* const first_bias = bias + Db * kT;             // [Hb 64], zeros behind

  // Once per call: the weights in tiles, and what every timestep adds to the hidden layer, W_t e(t) + b.
  void prepare(T* scratch) const {
    const int64_t H = a.H, D = a.D, E = a.E;
    pack((const T*)a.w_in, D + E, H, D, w_in);
    for (int64_t j = 0; j < Hb; ++j)  // tiles of W_o: [Hb][Db]
      for (int64_t i = 0; i < Db; ++i) pack((const T*)a.w_out + i * kT * H + j * kT, H, part(D, i), part(H, j), w_out + (j * Db + i) * kT * kT);
    pack((const T*)a.w_cond, a.C, H, a.C, w_cond);
    pack((const T*)a.w_in + D, D + E, H, E, w_time);
    __builtin_memset(bias, 0, Db * kT * sizeof(T));
    __builtin_memcpy(bias, a.b_out, D * sizeof(T));
    __builtin_memset(first_bias, 0, Hb * kT * sizeof(T));
    __builtin_memcpy(first_bias, a.b_in, H * sizeof(T));
    T* const made = scratch + R * Eb * kT;
    for (int64_t s = 0; s < a.S; s += R) {
      const int64_t n = a.S - s < R ? a.S - s : R;
      to_tiles((const T*)a.embedding + s * E, n, E, scratch);
      for (int64_t j = 0; j < Hb; ++j) {
        for (int64_t i = 0; i < Eb; ++i)
          multiply_tile<T>(n, scratch + i * n * kT, w_time + (j * Eb + i) * kT * kT, part(E, i), i ? made : first_bias + j * kT, i ? kT : 0, nullptr,
                           made, kT);
        for (int64_t r = 0; r < n; ++r) __builtin_memcpy(times + ((s + r) * Hb + j) * kT, made + r * kT, kT * sizeof(T));
      }
    }
  }

  // out [Db][n][64] = the denoiser at (x, step s); x and out in tiles, cond [Hb][n][64] projected.
  void denoise(int64_t n, int64_t s, const T* x, const T* cond, T* h, T* out) const {
    const int64_t tile = kT * kT, rows = n * kT;
    for (int64_t jj = 0; jj < Hb; ++jj) {
      const int64_t j = s & 1 ? Hb - 1 - jj : jj;  // back and forth: what was used last is still in the nearest cache
      for (int64_t i = 0; i < Db; ++i)
        multiply_tile<T>(n, x + i * rows, w_in + (j * Db + i) * tile, part(a.D, i), i ? h : cond + j * rows, kT,
                         i ? nullptr : times + (s * Hb + j) * kT, h, part(a.H, j));
      silu_all(h, rows);
      for (int64_t i = 0; i < Db; ++i)
        multiply_tile<T>(n, h, w_out + (j * Db + i) * tile, part(a.H, j), jj ? out + i * rows : bias + i * kT, jj ? kT : 0, nullptr, out + i * rows,
                         part(a.D, i));
    }
  }

  template <bool kNoise>
  __attribute__((noinline)) void update(int64_t n, const double* c, T* x, const T* out, const T* noise, T* keep, int64_t keep_row) const {
    const V c0 = V{} + (T)c[0], c1 = V{} + (T)c[1], d0 = V{} + (T)c[2], d1 = V{} + (T)c[3], d2 = V{} + (T)c[4], sigma = V{} + (T)c[5];
    const V limit = V{} + (T)a.clip;
    const bool only_output = c[0] == 0 && c[1] == 1;  // 0 x would make NaN of an infinite x
    for (int64_t i = 0; i < Db; ++i)
      for (int64_t r = 0; r < n; ++r, x += kT, out += kT)
        vectors<T>(part(a.D, i), [&](int64_t d, int lanes) __attribute__((always_inline)) {
          const V xv = load(x + d), ov = load(out + d);
          V est = only_output ? ov : c0 * xv + c1 * ov;
          est = est < -limit ? -limit : est;
          est = est > limit ? limit : est;
          V y = d0 * est + d1 * xv + d2 * ov;
          if constexpr (kNoise) y += sigma * load(noise + r * a.D + i * kT + d);
          store(x + d, y);
          if (keep) store(keep + r * keep_row + i * kT + d, est, lanes);
        });
  }

  // The noise of step s, [n, D] and room to read behind. True where there is any.
  bool noise_of(int64_t s, int64_t r0, int64_t n, float* made, T* to) const {
    if (a.noise) {
      __builtin_memcpy(to, (const T*)a.noise + (s * a.B + r0) * a.D, n * a.D * sizeof(T));
      return true;
    }
    if (!a.made) return false;
    random_normal(a.row_ids + r0, a.draw_ids ? a.draw_ids + r0 : nullptr, 0, (int64_t)a.seed, (int64_t)a.numbers[8 * s + 6], a.D, made, 0, n);
    if constexpr (sizeof(T) == 8)
      for (int64_t i = n * a.D; i-- > 0;) {  // in place, from the end
        float v;
        __builtin_memcpy(&v, made + i, sizeof v);
        to[i] = v;
      }
    return true;
  }

  // Rows [r0, r0 + n) through all steps.
  void block(int64_t r0, int64_t n, T* scratch) const {
    const int64_t rows = n * kT;
    T *const x = scratch, *const out = x + R * Db * kT, *const cond = out + R * Db * kT, *const h = cond + R * Hb * kT, *const noise = h + R * kT;
    T* const given = noise + R * a.D + kT;  // the condition as it comes, in tiles
    to_tiles((const T*)a.x + r0 * a.D, n, a.D, x);
    to_tiles((const T*)a.cond + r0 * a.C, n, a.C, given);
    static const T zeros[kT] = {};
    for (int64_t j = 0; j < Hb; ++j)
      for (int64_t i = 0; i < Cb; ++i)
        multiply_tile<T>(n, given + i * rows, w_cond + (j * Cb + i) * kT * kT, part(a.C, i), i ? cond + j * rows : zeros, i ? kT : 0, nullptr,
                         cond + j * rows, kT);
    for (int64_t s = 0; s < a.S; ++s) {
      const double* c = a.numbers + 8 * s;
      denoise(n, s, x, cond, h, out);
      T* const keep = c[7] < 0 ? nullptr : (T*)a.states + (r0 * a.K + (int64_t)c[7]) * a.D;
      if (c[5] != 0 && noise_of(s, r0, n, (float*)noise, noise))
        update<true>(n, c, x, out, noise, keep, a.K * a.D);
      else
        update<false>(n, c, x, out, noise, keep, a.K * a.D);
    }
    for (int64_t i = 0; i < Db; ++i)
      for (int64_t r = 0; r < n; ++r)
        __builtin_memcpy((T*)a.x_0 + (r0 + r) * a.D + i * kT, x + (i * n + r) * kT, part(a.D, i) * sizeof(T));
  }

  void run(int64_t begin, int64_t end, T* scratch) const {
    const int64_t blocks = (end - begin + R - 1) / R;
    for (int64_t i = 0; i < blocks; ++i) {  // as even as can be
      const int64_t first = begin + (end - begin) * i / blocks, last = begin + (end - begin) * (i + 1) / blocks;
      block(first, last - first, scratch);
    }
  }
};

}  // namespace

void denoise_chain_prepare(const ChainArgs& a, void* scratch) {
  a.wide ? Chain<double>{a}.prepare((double*)scratch) : Chain<float>{a}.prepare((float*)scratch);
}
void denoise_chain(const ChainArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.wide ? Chain<double>{a}.run(begin, end, (double*)scratch) : Chain<float>{a}.run(begin, end, (float*)scratch);
}

}  // namespace ORD_ISA
