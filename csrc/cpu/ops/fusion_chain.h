// Whole guided chains of a one-layer session denoiser. A block of up to 48 states (16 rows in 3 branches) goes through
// all steps and sessions before the next block: states, projected guidance and weights stay in cache, 48 KB a session
// next to 128 KB of weights for D = 64 and 256 hidden units.
//
// A row's pass j is its j-th session that is there, and rows are sorted by how many they have: pass j works on the
// first m_j of them, states [row][branch]. Two products fewer than the formula has: in the first pass the branches
// start from the same x; and the estimates of the branches enter x only combined, so a row's last pass combines hidden
// units and makes one output. Every sum runs over its inputs in one order whatever the rows around it, so a row's bits
// do not depend on its block.
#pragma once
#include "cpu/gemm/mlp_tiles.h"
#include "cpu/ops/fusion_chain_args.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <class T>
struct Fusion : Mlp<T, FusionArgs> {
  using Base = Mlp<T, FusionArgs>;
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;
  static constexpr int64_t R = kMlpRows;
  using Base::a, Base::Db, Base::Hb, Base::Cb, Base::w_in, Base::w_out, Base::w_cond, Base::times, Base::bias,
      Base::first_bias;

  T* const unguided = first_bias + Hb * kTileWidth;  // [Hb 64], W_c of the empty guidance
  const int64_t branches = 1 + a.guided, rows_at_once = R / branches;

  void prepare(T* scratch) const {
    Base::prepare(scratch);
    to_tiles((const T*)a.empty, 1, a.C, scratch);
    project(1, scratch, 1, [&](int64_t j) { return unguided + j * kTileWidth; });
  }

  // W_c of n rows in tiles [Cb][rows][64]; to(hidden tile) is where its n rows go.
  template <class F>
  void project(int64_t n, const T* given, int64_t rows, F to) const {
    static const T zeros[kTileWidth] = {};
    for (int64_t j = 0; j < Hb; ++j) {
      T* const c = to(j);
      for (int64_t i = 0; i < Cb; ++i) {
        multiply_tile<T>(n, given + i * rows * kTileWidth, w_cond + (j * Cb + i) * kTileWidth * kTileWidth,
                         tile_columns(a.C, i), i ? c : zeros, i ? kTileWidth : 0, nullptr, c, kTileWidth);
      }
    }
  }

  // A block of rows on its way.
  struct Block {
    int64_t n, passes;         // rows with sessions, the most that one has
    int64_t row[R], count[R];  // which row, how many sessions; falling
    int32_t* session;          // [R][K]
    T *x, *y, *next, *f, *h, *few, *made, *cond, *given, *noise;
    int64_t still(int64_t j) const {  // rows that have a pass j
      int64_t m = 0;
      while (m < n && count[m] > j) {
        ++m;
      }
      return m;
    }
  };

  void sort_rows(Block& k, int64_t r0, int64_t r1) const {
    k.n = 0;
    for (int64_t r = r0; r < r1; ++r) {
      int64_t c = 0;
      for (int64_t s = 0; s < a.K; ++s) {
        c += a.mask[r * a.K + s] != 0;
      }
      if (c == 0) {
        __builtin_memcpy((T*)a.x_0 + r * a.D, (const T*)a.x + r * a.D, a.D * sizeof(T));
        continue;
      }
      int64_t i = k.n++;
      for (; i > 0 && k.count[i - 1] < c; --i) {
        k.row[i] = k.row[i - 1], k.count[i] = k.count[i - 1];
      }
      k.row[i] = r, k.count[i] = c;
    }
    for (int64_t i = 0; i < k.n; ++i) {
      for (int64_t s = 0, c = 0; s < a.K; ++s) {
        if (a.mask[k.row[i] * a.K + s]) {
          k.session[i * a.K + c++] = (int32_t)s;
        }
      }
    }
    k.passes = k.n ? k.count[0] : 0;
  }

  // cond [pass][Hb][R][64]: what the guidance adds to the hidden layer.
  void project_sessions(const Block& k) const {
    for (int64_t j = 0; j < k.passes; ++j) {
      const int64_t m = k.still(j), n = m * a.guided;
      for (int64_t r = 0, at = 0; r < m; ++r) {
        for (int64_t b = 0; b < a.guided; ++b, ++at) {
          for (int64_t i = 0; i < Cb; ++i) {
            T* const to = k.given + (i * n + at) * kTileWidth;
            const T* const from = (const T*)a.g[b] + (k.row[r] * a.K + k.session[r * a.K + j]) * a.C + i * kTileWidth;
            __builtin_memcpy(to, from, tile_columns(a.C, i) * sizeof(T));
          }
        }
      }
      T* const pass = k.cond + j * Hb * R * kTileWidth;
      if (n) {
        project(n, k.given, n, [&](int64_t t) {
          return pass + t * R * kTileWidth + m * kTileWidth;
        });  // behind, so that they can be moved up
      }
      for (int64_t t = 0; t < Hb; ++t) {
        for (int64_t r = 0; r < m; ++r) {
          T *const to = pass + (t * R + r * branches) * kTileWidth, *const from =
                                                                        pass + (t * R + m + r * a.guided) * kTileWidth;
          __builtin_memmove(to + kTileWidth, from, a.guided * kTileWidth * sizeof(T));
          __builtin_memcpy(to, unguided + t * kTileWidth, kTileWidth * sizeof(T));
        }
      }
    }
  }

  // h [row][branch] = silu(made [row] + cond)
  __attribute__((noinline)) void silu_shared(int64_t n, const T* made, const T* cond, T* h) const {
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t b = 0; b < branches; ++b, cond += kTileWidth, h += kTileWidth) {
        for (int64_t i = 0; i < kTileWidth; i += 2 * W) {
          const V u = silu(load(made + r * kTileWidth + i) + load(cond + i)),
                  v = silu(load(made + r * kTileWidth + i + W) + load(cond + i + W));
          store(h + i, u);
          store(h + i + W, v);
        }
      }
    }
  }

  // few [row] = h_un + gamma (h_cp - h_un) + ...
  __attribute__((noinline)) void combine(int64_t n, const T* h, T* few) const {
    for (int64_t r = 0; r < n; ++r, h += branches * kTileWidth, few += kTileWidth) {
      for (int64_t i = 0; i < kTileWidth; i += W) {
        const V un = load(h + i);
        V c = un;
        for (int64_t b = 0; b < a.guided; ++b) {
          c += (V{} + (T)a.gamma[b]) * (load(h + (b + 1) * kTileWidth + i) - un);
        }
        store(few + i, c);
      }
    }
  }

  // All passes of step s: x -> f, the combined estimates of x0.
  void estimate(Block& k, int64_t s) const {
    const int64_t tile = kTileWidth * kTileWidth, N = k.n * branches * kTileWidth;
    T *y = k.y, *next = k.next;
    for (int64_t j = 0; j < k.passes; ++j) {
      const int64_t m = k.still(j), on = k.still(j + 1), last = m - on;
      const T* const cond = k.cond + j * Hb * R * kTileWidth;
      for (int64_t tt = 0; tt < Hb; ++tt) {
        const int64_t t = (s + j) & 1
                              ? Hb - 1 - tt
                              : tt;  // back and forth: what was used last is still in cache; the same for every block
        const T* const time = times + (s * Hb + t) * kTileWidth;
        const int64_t columns = tile_columns(a.H, t);
        if (j == 0) {
          for (int64_t i = 0; i < Db; ++i) {
            multiply_tile<T>(m, k.x + i * k.n * kTileWidth, w_in + (t * Db + i) * tile, tile_columns(a.D, i),
                             i ? k.made : time, i ? kTileWidth : 0, nullptr, k.made, columns);
          }
          silu_shared(m, k.made, cond + t * R * kTileWidth, k.h);
        } else {
          for (int64_t i = 0; i < Db; ++i) {
            multiply_tile<T>(m * branches, y + i * N, w_in + (t * Db + i) * tile, tile_columns(a.D, i),
                             i ? k.h : cond + t * R * kTileWidth, kTileWidth, i ? nullptr : time, k.h, columns);
          }
          silu_all(k.h, m * branches * kTileWidth);
        }
        if (last) {
          combine(last, k.h + on * branches * kTileWidth, k.few);
        }
        for (int64_t i = 0; i < Db; ++i) {
          const T* const w = w_out + (t * Db + i) * tile;
          T *const out = next + i * N, *const f = k.f + (i * k.n + on) * kTileWidth;
          if (on) {
            multiply_tile<T>(on * branches, k.h, w, columns, tt ? out : bias + i * kTileWidth, tt ? kTileWidth : 0,
                             nullptr, out, tile_columns(a.D, i));
          }
          if (last) {
            multiply_tile<T>(last, k.few, w, columns, tt ? f : bias + i * kTileWidth, tt ? kTileWidth : 0, nullptr, f,
                             tile_columns(a.D, i));
          }
        }
      }
      T* const t = y;
      y = next, next = t;
    }
  }

  bool noise_of(const Block& k, int64_t s) const {
    if (a.noise) {
      for (int64_t i = 0; i < k.n; ++i) {
        __builtin_memcpy(k.noise + i * a.D, (const T*)a.noise + (s * a.B + k.row[i]) * a.D, a.D * sizeof(T));
      }
      return true;
    }
    if (!a.made) {
      return false;
    }
    int64_t ids[R], draws[R];
    for (int64_t i = 0; i < k.n; ++i) {
      ids[i] = a.row_ids[k.row[i]], draws[i] = a.draw_ids ? a.draw_ids[k.row[i]] : 0;
    }
    generate_noise(ids, a.draw_ids ? draws : nullptr, a.seed, a.numbers[4 * s + 3], a.D, k.n, k.noise);
    return true;
  }

  __attribute__((noinline)) void update(const Block& k, const double* c, bool noisy) const {
    const V d0 = V{} + (T)c[0], d1 = V{} + (T)c[1], sigma = V{} + (T)c[2];
    for (int64_t i = 0; i < Db; ++i) {
      for (int64_t r = 0; r < k.n; ++r) {
        const int64_t at = (i * k.n + r) * kTileWidth;
        for (int64_t d = 0; d < tile_columns(a.D, i); d += W) {
          V v = d0 * load(k.f + at + d) + d1 * load(k.x + at + d);
          if (noisy) {
            v += sigma * load(k.noise + r * a.D + i * kTileWidth + d);
          }
          store(k.x + at + d, v);
        }
      }
    }
  }

  // Rows [r0, r1), at most rows_at_once of them, through all steps.
  void block(int64_t r0, int64_t r1, T* scratch) const {
    Block k;
    const int64_t state = R * Db * kTileWidth;
    k.x = scratch, k.y = k.x + state, k.next = k.y + state, k.f = k.next + state, k.h = k.f + state,
    k.few = k.h + R * kTileWidth;
    k.made = k.few + R * kTileWidth, k.cond = k.made + R * kTileWidth, k.given = k.cond + a.K * Hb * R * kTileWidth,
    k.noise = k.given + Cb * R * kTileWidth;
    k.session = (int32_t*)(k.noise + R * a.D + kTileWidth);
    sort_rows(k, r0, r1);
    if (k.n == 0) {
      return;
    }
    for (int64_t i = 0; i < Db; ++i) {
      for (int64_t r = 0; r < k.n; ++r) {
        __builtin_memcpy(k.x + (i * k.n + r) * kTileWidth, (const T*)a.x + k.row[r] * a.D + i * kTileWidth,
                         tile_columns(a.D, i) * sizeof(T));
      }
    }
    project_sessions(k);
    for (int64_t s = 0; s < a.S; ++s) {
      const double* c = a.numbers + 4 * s;
      estimate(k, s);
      update(k, c, c[2] != 0 && noise_of(k, s));
    }
    for (int64_t i = 0; i < Db; ++i) {
      for (int64_t r = 0; r < k.n; ++r) {
        __builtin_memcpy((T*)a.x_0 + k.row[r] * a.D + i * kTileWidth, k.x + (i * k.n + r) * kTileWidth,
                         tile_columns(a.D, i) * sizeof(T));
      }
    }
  }

  void run(int64_t begin, int64_t end, T* scratch) const {
    const int64_t blocks = (end - begin + rows_at_once - 1) / rows_at_once;
    for (int64_t i = 0; i < blocks; ++i) {  // as even as can be
      block(begin + (end - begin) * i / blocks, begin + (end - begin) * (i + 1) / blocks, scratch);
    }
  }
};

}  // namespace

void fusion_chain_prepare(const FusionArgs& a, void* scratch) {
  a.is_double ? Fusion<double>{{a}}.prepare((double*)scratch) : Fusion<float>{{a}}.prepare((float*)scratch);
}
void fusion_chain(const FusionArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.is_double ? Fusion<double>{{a}}.run(begin, end, (double*)scratch)
              : Fusion<float>{{a}}.run(begin, end, (float*)scratch);
}

}  // namespace ORD_ISA
