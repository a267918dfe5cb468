// Whole guided chains of a one-layer session denoiser. A block of up to 48 states (16 rows in 3 branches) goes through
// all steps and sessions before the next block: states, projected guidance and weights stay in cache, 48 KB a session
// next to 128 KB of weights for D = 64 and 256 hidden units.
//
// A row's pass j is its j-th session that is there, and rows are sorted by how many they have: pass j works on the
// first m_j of them, states [row][branch]. Two products fewer than the formula has: in the first pass the branches
// start from the same x; and the estimates of the branches enter x only combined, so a row's last pass combines hidden
// units and makes one output. Guidance that follows itself is projected once, and the branch without guidance is left
// out where it has no weight. Every sum runs over its inputs in one order whatever the rows around it, so a row's bits
// do not depend on its block.
#pragma once
#include "cpu/gemm/mlp_tiles.h"
#include "cpu/ops/fusion_chain_args.h"
#include "cpu/simd/vmath.h"

namespace ORD_ISA {
namespace {

template <class T>
struct FusionChain : Mlp<T, FusionChainArgs> {
  using Base = Mlp<T, FusionChainArgs>;
  using V = typename Traits<T>::V;
  static constexpr int W = kLanes<T>;
  static constexpr int64_t R = kMlpRows;
  static constexpr int64_t kCoefficients = 4;
  using Base::a, Base::d_tiles, Base::h_tiles, Base::c_tiles, Base::w_in, Base::w_out, Base::times, Base::b_out,
      Base::b_in;

  T* const unguided = b_in + h_tiles * kTileWidth;  // [h_tiles 64], W_c of the empty guidance
  // Branches without guidance: none where the weights of the others have sum 1.
  const int64_t plain = a.guided && total_weight() == 1 ? 0 : 1;
  const int64_t branches = plain + a.guided, rows_at_once = R / branches;

  double total_weight() const {
    double sum = 0;
    for (int64_t b = 0; b < a.guided; ++b) {
      sum += a.gamma[b];
    }
    return sum;
  }

  void pack_weights(T* scratch) const {
    Base::pack_weights(scratch);
    to_tiles((const T*)a.empty, 1, a.C, scratch);
    Base::project_conditions(1, scratch, [&](int64_t j) { return unguided + j * kTileWidth; });
  }

  // A block of rows on its way.
  struct Block {
    int64_t n, passes;         // rows with sessions, the most that one has
    int64_t row[R], count[R];  // which row, how many sessions; falling
    int32_t* session;          // [R][K]
    T* x;                      // [d_tiles][n][64]
    T *from, *to;              // [d_tiles][n branches][64]: the branches' estimates before and after a pass
    T* f;                      // [d_tiles][n][64]: the combined estimates
    T *h, *combined;           // [n branches][64], [n][64]: hidden units, those of the branches combined
    T* shared;                 // [n][64]: what a row's branches share of the hidden layer in the first pass
    T* cond;                   // [passes][h_tiles][R][64]: what the guidance adds to the hidden layer
    T* guidance;               // [c_tiles][n][64]
    T* noise;                  // [n, D]

    int64_t rows_with_pass(int64_t j) const {
      int64_t m = 0;
      while (m < n && count[m] > j) {
        ++m;
      }
      return m;
    }
  };

  void bind_scratch(Block& k, T* scratch) const {
    const int64_t state = R * d_tiles * kTileWidth;
    k.x = scratch;
    k.from = k.x + state;
    k.to = k.from + state;
    k.f = k.to + state;
    k.h = k.f + state;
    k.combined = k.h + R * kTileWidth;
    k.shared = k.combined + R * kTileWidth;
    k.cond = k.shared + R * kTileWidth;
    k.guidance = k.cond + a.K * h_tiles * R * kTileWidth;
    k.noise = k.guidance + c_tiles * R * kTileWidth;
    k.session = (int32_t*)(k.noise + R * a.D + kTileWidth);
  }

  // Rows [begin, end) with sessions into the block; the others' x_0 is their x.
  void sort_rows(Block& k, int64_t begin, int64_t end) const {
    k.n = 0;
    for (int64_t r = begin; r < end; ++r) {
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
        k.row[i] = k.row[i - 1];
        k.count[i] = k.count[i - 1];
      }
      k.row[i] = r;
      k.count[i] = c;
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

  const T* guidance_of(const Block& k, int64_t j, int64_t r, int64_t branch) const {
    return (const T*)a.g[branch] + (k.row[r] * a.K + k.session[r * a.K + j]) * a.C;
  }
  // Of m rows with a pass j, which guidance each has among those that differ from the row's before: the draws of a row
  // share theirs, the rows of a user may.
  int64_t distinct_guidance(const Block& k, int64_t j, int64_t m, int64_t* which) const {
    int64_t found = 0;
    for (int64_t r = 0; r < m; ++r) {
      bool same = r > 0;
      for (int64_t b = 0; same && b < a.guided; ++b) {
        same = !__builtin_memcmp(guidance_of(k, j, r - 1, b), guidance_of(k, j, r, b), a.C * sizeof(T));
      }
      found += !same;
      which[r] = found - 1;
    }
    return found;
  }
  // What differs of the guidance of pass j, [n][branch], in tiles.
  void gather_guidance(const Block& k, int64_t j, int64_t m, const int64_t* which, int64_t n) const {
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t b = 0; (r == 0 || which[r] > which[r - 1]) && b < a.guided; ++b) {
        const int64_t at = which[r] * a.guided + b;
        for (int64_t i = 0; i < c_tiles; ++i) {
          __builtin_memcpy(k.guidance + (i * n * a.guided + at) * kTileWidth, guidance_of(k, j, r, b) + i * kTileWidth,
                           tile_columns(a.C, i) * sizeof(T));
        }
      }
    }
  }

  void project_sessions(const Block& k) const {
    int64_t which[R] = {};
    for (int64_t j = 0; j < k.passes; ++j) {
      const int64_t m = k.rows_with_pass(j);
      T* const pass = k.cond + j * h_tiles * R * kTileWidth;
      // At the end of the rows' places, from where they are moved up: each row's before those of the rows behind it.
      int64_t first = R;
      if (a.guided) {
        const int64_t n = distinct_guidance(k, j, m, which);
        gather_guidance(k, j, m, which, n);
        first -= n * a.guided;
        Base::project_conditions(n * a.guided, k.guidance,
                                 [&](int64_t t) { return pass + (t * R + first) * kTileWidth; });
      }
      for (int64_t t = 0; t < h_tiles; ++t) {
        for (int64_t r = 0; r < m; ++r) {
          T *const to = pass + (t * R + r * branches) * kTileWidth, *const from =
                                                                        pass + (t * R + first + which[r] * a.guided) *
                                                                                   kTileWidth;
          __builtin_memmove(to + plain * kTileWidth, from, a.guided * kTileWidth * sizeof(T));
          __builtin_memcpy(to, unguided + t * kTileWidth, plain * kTileWidth * sizeof(T));
        }
      }
    }
  }

  // h [row][branch] = silu(shared [row] + cond)
  __attribute__((noinline)) void silu_of_shared(int64_t n, const T* shared, const T* cond, T* h) const {
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t b = 0; b < branches; ++b, cond += kTileWidth, h += kTileWidth) {
        for (int64_t i = 0; i < kTileWidth; i += 2 * W) {
          const V u = silu(load(shared + r * kTileWidth + i) + load(cond + i));
          const V v = silu(load(shared + r * kTileWidth + i + W) + load(cond + i + W));
          store(h + i, u);
          store(h + i + W, v);
        }
      }
    }
  }

  // combined [row] = h_un + gamma (h_cp - h_un) + ...
  __attribute__((noinline)) void combine(int64_t n, const T* h, T* combined) const {
    for (int64_t r = 0; r < n; ++r, h += branches * kTileWidth, combined += kTileWidth) {
      for (int64_t i = 0; i < kTileWidth; i += W) {
        const V un = plain ? load(h + i) : V{};
        V c = un;
        for (int64_t b = 0; b < a.guided; ++b) {
          c += (V{} + (T)a.gamma[b]) * (load(h + (b + plain) * kTileWidth + i) - un);
        }
        store(combined + i, c);
      }
    }
  }

  // Hidden tile t of pass j at step s, of m rows' branches.
  void hidden_units(const Block& k, int64_t s, int64_t j, int64_t t, int64_t m) const {
    const int64_t columns = tile_columns(a.H, t);
    const T *const time = times + (s * h_tiles + t) * kTileWidth, *const w = w_in + t * d_tiles * kTileSize;
    const T* const cond = k.cond + (j * h_tiles + t) * R * kTileWidth;
    if (j == 0) {
      multiply_tiles<T>(m, {k.x, k.n * kTileWidth, a.D}, w, {time, 0, nullptr}, k.shared, columns);
      silu_of_shared(m, k.shared, cond, k.h);
    } else {
      multiply_tiles<T>(m * branches, {k.from, k.n * branches * kTileWidth, a.D}, w, {cond, kTileWidth, time}, k.h,
                        columns);
      silu_all(k.h, m * branches * kTileWidth);
    }
  }

  // Adds W_o of hidden tile t of n rows to `out` [d_tiles], `out_tile` apart; the first starts from the bias.
  void add_output(int64_t n, const T* h, int64_t t, bool first, T* out, int64_t out_tile) const {
    for (int64_t i = 0; n && i < d_tiles; ++i, out += out_tile) {
      multiply_tile(n, TileProduct<T>{h, w_out + (t * d_tiles + i) * kTileSize, tile_columns(a.H, t),
                                      first ? b_out + i * kTileWidth : out, first ? 0 : kTileWidth, nullptr, out,
                                      tile_columns(a.D, i)});
    }
  }

  // All passes of step s: x -> f, the combined estimates of x0.
  void estimate(Block& k, int64_t s) const {
    for (int64_t j = 0; j < k.passes; ++j) {
      const int64_t m = k.rows_with_pass(j), going_on = k.rows_with_pass(j + 1), ending = m - going_on;
      for (int64_t tt = 0; tt < h_tiles; ++tt) {
        // Back and forth: what was used last is still in cache; the same for every block.
        const int64_t t = (s + j) & 1 ? h_tiles - 1 - tt : tt;
        hidden_units(k, s, j, t, m);
        combine(ending, k.h + going_on * branches * kTileWidth, k.combined);
        add_output(going_on * branches, k.h, t, tt == 0, k.to, k.n * branches * kTileWidth);
        add_output(ending, k.combined, t, tt == 0, k.f + going_on * kTileWidth, k.n * kTileWidth);
      }
      T* const to = k.from;
      k.from = k.to;
      k.to = to;
    }
  }

  // Fills k.noise with that of step s. True where there is any.
  bool set_noise(const Block& k, int64_t s) const {
    if (a.noise) {
      for (int64_t i = 0; i < k.n; ++i) {
        __builtin_memcpy(k.noise + i * a.D, (const T*)a.noise + (s * a.B + k.row[i]) * a.D, a.D * sizeof(T));
      }
      return true;
    }
    if (!a.generate_noise) {
      return false;
    }
    int64_t ids[R], draws[R];
    for (int64_t i = 0; i < k.n; ++i) {
      ids[i] = a.row_ids[k.row[i]];
      draws[i] = a.draw_ids ? a.draw_ids[k.row[i]] : 0;
    }
    generate_noise(ids, a.draw_ids ? draws : nullptr, a.seed, a.step_coefficients[kCoefficients * s + 3], a.D, k.n,
                   k.noise);
    return true;
  }

  __attribute__((noinline)) void update(const Block& k, const double* c, bool noisy) const {
    const V d0 = V{} + (T)c[0], d1 = V{} + (T)c[1], sigma = V{} + (T)c[2];
    for (int64_t i = 0; i < d_tiles; ++i) {
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

  // Rows [begin, end), at most rows_at_once of them, through all steps.
  void run_block(int64_t begin, int64_t end, T* scratch) const {
    Block k;
    bind_scratch(k, scratch);
    sort_rows(k, begin, end);
    if (k.n == 0) {
      return;
    }
    for (int64_t i = 0; i < d_tiles; ++i) {
      for (int64_t r = 0; r < k.n; ++r) {
        __builtin_memcpy(k.x + (i * k.n + r) * kTileWidth, (const T*)a.x + k.row[r] * a.D + i * kTileWidth,
                         tile_columns(a.D, i) * sizeof(T));
      }
    }
    project_sessions(k);
    for (int64_t s = 0; s < a.S; ++s) {
      const double* const c = a.step_coefficients + kCoefficients * s;
      estimate(k, s);
      update(k, c, c[2] != 0 && set_noise(k, s));
    }
    for (int64_t i = 0; i < d_tiles; ++i) {
      for (int64_t r = 0; r < k.n; ++r) {
        __builtin_memcpy((T*)a.x_0 + k.row[r] * a.D + i * kTileWidth, k.x + (i * k.n + r) * kTileWidth,
                         tile_columns(a.D, i) * sizeof(T));
      }
    }
  }

  void run(int64_t begin, int64_t end, T* scratch) const {
    const int64_t blocks = (end - begin + rows_at_once - 1) / rows_at_once;
    for (int64_t i = 0; i < blocks; ++i) {  // as even as can be
      run_block(begin + (end - begin) * i / blocks, begin + (end - begin) * (i + 1) / blocks, scratch);
    }
  }
};

}  // namespace

void fusion_chain_pack(const FusionChainArgs& a, void* scratch) {
  a.is_double ? FusionChain<double>{{a}}.pack_weights((double*)scratch)
              : FusionChain<float>{{a}}.pack_weights((float*)scratch);
}
void fusion_chain(const FusionChainArgs& a, int64_t begin, int64_t end, void* scratch) {
  a.is_double ? FusionChain<double>{{a}}.run(begin, end, (double*)scratch)
              : FusionChain<float>{{a}}.run(begin, end, (float*)scratch);
}

}  // namespace ORD_ISA
